# A Django project: the settings module by raw_env, paths from this file.
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

chdir = str(BASE_DIR)
wsgi_app = "web:wsgi"
raw_env = ["DJANGO_SETTINGS_MODULE=shop.settings.production", "DJANGO_DEBUG=0"]
errorlog = "-"
loglevel = "info"
proc_name = "shop"
preload_app = True
