"""A Django application in one file, with the middleware of a new project that needs no database."""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY="of a benchmark",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
)


def hello(request):
    return JsonResponse({"message": "Hello, World!"})


async def hello_async(request):
    return JsonResponse({"message": "Hello, World!"})


urlpatterns = [path("json", hello), path("async", hello_async)]
app, asgi = get_wsgi_application(), get_asgi_application()
