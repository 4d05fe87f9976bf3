"""What did we learn from a run?"""
