"""How do other libraries take our networks?"""
