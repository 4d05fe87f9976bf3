"""How does a network grow to a budget?"""
