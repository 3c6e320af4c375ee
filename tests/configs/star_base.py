# What star.py builds upon.
workers = 2
threads = 4
timeout = 60
_private = "not a setting"
