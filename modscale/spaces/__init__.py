"""What family of networks, and what does it hold?"""
