/* tls: see tls.h. */
#include "config/tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/base/mem.h"

enum { PEM_MAX = 1 << 20 }; /* bytes of a file that are looked at */

static bool is_set(const char *text)
{
    return text && *text;
}

static bool refuse(const struct settings *settings, const char *name, const char *value, const char *reason,
                   struct buf *errors)
{
    buf_printf(errors, "%s = '%.200s' (from %s): %s\n", name, value, settings_origin(settings, name), reason);
    return false;
}

/* --- Files */

/* The file's text, as far as it matters; NULL with errno. A relative path is one in `chdir`. */
static char *read_file(const struct settings *settings, const char *path)
{
    bool inside = path[0] != '/' && is_set(settings->chdir);
    char *full = inside ? mem_printf("%s/%s", settings->chdir, path) : mem_strdup(path), *text = NULL;
    FILE *file = fopen(full, "re");
    free(full);
    if (!file)
        return NULL;
    text = mem_zalloc(PEM_MAX + 1);
    size_t len = fread(text, 1, PEM_MAX, file);
    int error = ferror(file) ? errno : 0;
    fclose(file);
    text[len] = 0;
    if (error) {
        free(text);
        errno = error;
        return NULL;
    }
    return text;
}

/* `part`: what a file of that kind has in it. */
static bool check_file(const struct settings *settings, const char *name, const char *path, const char *part,
                       const char *otherwise, struct buf *errors)
{
    if (!is_set(path))
        return true;
    char *text = read_file(settings, path);
    bool good = text && strstr(text, part);
    if (!good)
        refuse(settings, name, path, text ? otherwise : strerror(errno), errors);
    free(text);
    return good;
}

/* A key that is encrypted needs its password: nobody is there to type it. */
static bool check_key(const struct settings *settings, struct buf *errors)
{
    const char *path = is_set(settings->keyfile) ? settings->keyfile : settings->certfile;
    if (!is_set(path))
        return true;
    if (!check_file(settings, is_set(settings->keyfile) ? "keyfile" : "certfile", path, "PRIVATE KEY-----",
                    is_set(settings->keyfile) ? "no private key in PEM form is in it"
                                              : "no private key in PEM form is in it: see --keyfile",
                    errors))
        return false;
    char *text = read_file(settings, path);
    bool encrypted = text && (strstr(text, "ENCRYPTED PRIVATE KEY") || strstr(text, "Proc-Type: 4,ENCRYPTED"));
    free(text);
    return !encrypted || is_set(settings->ssl_keyfile_password) ||
           refuse(settings, "keyfile", path, "the key is encrypted: its password is missing, see --ssl-keyfile-password",
                  errors);
}

static bool check_files(const struct settings *settings, struct buf *errors)
{
    bool good = check_file(settings, "certfile", settings->certfile, "-----BEGIN CERTIFICATE-----",
                           "no certificate in PEM form is in it", errors);
    good &= check_file(settings, "ca_certs", settings->ca_certs, "-----BEGIN CERTIFICATE-----",
                       "no certificate in PEM form is in it", errors);
    return check_key(settings, errors) && good;
}

/* --- Versions and protocols */

/* As Python's ssl module names and counts them, with what granian takes. */
static const struct {
    const char *name;
    bool good;
} versions[] = {
    { "2", true },       { "5", true },        { "17", true },    { "TLS", true },     { "TLS_SERVER", true },
    { "TLSv1_2", true }, { "TLSv1_3", true },  { "tls1.2", true }, { "tls1.3", true }, { "SSLv2", false },
    { "SSLv3", false },  { "SSLv23", true },   { "TLSv1", false }, { "TLSv1_1", false }, { "3", false },
    { "4", false },      { "16", false },
};

static bool check_version(const struct settings *settings, struct buf *errors)
{
    const char *version = settings->ssl_version, *name = version;
    if (!is_set(version))
        return true;
    if (strncmp(name, "PROTOCOL_", 9) == 0)
        name += 9;
    for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++)
        if (strcasecmp(versions[i].name, name) == 0)
            return versions[i].good ||
                   refuse(settings, "ssl_version", version, "too old, or not for servers: TLS 1.2 is the least", errors);
    return refuse(settings, "ssl_version", version, "must be TLS, TLS_SERVER, TLSv1_2 or TLSv1_3", errors);
}

/* "h2,h1" or "h2", "h1". */
static bool check_protocols(const struct settings *settings, struct buf *errors)
{
    bool good = true, has_h1 = false;
    for (size_t i = 0; i < settings->http_protocols.count; i++) {
        char *items = mem_strdup(settings->http_protocols.items[i]), *rest = items;
        for (char *item; (item = strsep(&rest, ", ")) != NULL;) {
            has_h1 |= strcmp(item, "h1") == 0;
            if (*item && strcmp(item, "h1") && strcmp(item, "h2") && strcmp(item, "h3"))
                good = refuse(settings, "http_protocols", item, "must be h1 or h2", errors);
        }
        free(items);
    }
    if (good && !has_h1)
        good = refuse(settings, "http_protocols", settings->http_protocols.count ? settings->http_protocols.items[0] : "",
                      "this version of licorne serves HTTP/1.1 alone: h1 must be among them; a proxy in front can speak "
                      "HTTP/2 with the clients",
                      errors);
    return good;
}

/* --- What to do instead */

/* Where a proxy finds the server. */
static const char *upstream(const struct settings *settings)
{
    return settings->bind.count ? settings->bind.items[0] : "127.0.0.1:8000";
}

static bool refuse_tls(const struct settings *settings, struct buf *errors)
{
    const char *name = is_set(settings->certfile) ? "certfile" : "keyfile";
    const char *path = is_set(settings->certfile) ? settings->certfile : settings->keyfile;
    const char *key = is_set(settings->keyfile) ? settings->keyfile : path;
    refuse(settings, name, path,
           "this version of licorne does not serve TLS, and does not answer in plain text where encryption is expected. Leave "
           "it out, and let a proxy in front of licorne do it (docs/operations.md, TLS)",
           errors);
    buf_printf(errors,
               "with nginx: server { listen 443 ssl; ssl_certificate %.200s; ssl_certificate_key %.200s; location / { "
               "proxy_pass http://%.200s; proxy_set_header Host $host; proxy_set_header X-Forwarded-For "
               "$proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme; } }\n",
               path, key, upstream(settings));
    buf_printf(errors,
               "with HAProxy: frontend https { bind :443 ssl crt BOTH.pem; option forwardfor; http-request set-header "
               "X-Forwarded-Proto https; default_backend licorne } backend licorne { server one %.200s }\n",
               upstream(settings));
    return false;
}

bool tls_check(const struct settings *settings, struct buf *errors)
{
    bool good = check_files(settings, errors);
    good &= check_version(settings, errors);
    good &= check_protocols(settings, errors);
    if (is_set(settings->certfile) || is_set(settings->keyfile))
        return refuse_tls(settings, errors);
    return good;
}
