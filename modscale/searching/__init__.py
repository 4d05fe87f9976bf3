"""Which network next, and what is measured of it?"""
