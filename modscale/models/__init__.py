"""What is a spec in torch?"""
