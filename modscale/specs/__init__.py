"""What is a network, on paper?"""
