"""What can be done from Python, and by the commands?"""
