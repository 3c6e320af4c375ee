from django.contrib import admin
from django.urls import path

from . import feed, views

urlpatterns = [
    path("", views.index),
    path("admin/", admin.site.urls),
    path("greet/<str:name>", views.greet),
    path("echo", views.echo),
    path("visits", views.visits),
    path("upload", views.upload),
    path("download/<int:mib>", views.download),
    path("feed", feed.feed),
    path("feed/readers", feed.count_readers),
    path("error", views.error),
]
