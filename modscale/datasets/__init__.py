"""What does a network learn from?"""
