"""One Django project, two ways to serve it.

    pip install django whitenoise
    cd examples/django_site
    python manage.py migrate
    python manage.py createsuperuser
    python manage.py collectstatic --no-input

    licorne mysite.wsgi:application --threads 8
    licorne mysite.asgi:application

The admin is at /admin/. WhiteNoise serves its style sheets and scripts.
"""
