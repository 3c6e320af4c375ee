# Built upon gunicorn's own defaults, if it is there.
try:
    from gunicorn.glogging import CONFIG_DEFAULTS
except ImportError:
    CONFIG_DEFAULTS = {"version": 1, "disable_existing_loggers": False, "handlers": {}, "formatters": {}}

logconfig_dict = {**CONFIG_DEFAULTS, "root": {"level": "WARNING", "handlers": []}}
loglevel = "WARNING"
