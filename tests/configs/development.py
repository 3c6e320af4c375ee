# While developing.
import glob

reload = True
reload_engine = "inotify"
reload_extra_files = glob.glob("templates/**/*.html", recursive=True) + [__file__]
loglevel = "debug"
workers = 1
timeout = 0
