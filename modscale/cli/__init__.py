"""What do people type, and what does the terminal show them?"""
