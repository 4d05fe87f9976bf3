"""What is an experiment, and what is on disk of it?"""
