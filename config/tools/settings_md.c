/* settings_md: writes docs/settings.md, or with --check says whether it is what the table says. For the build: target
 * `docs`, test `settings_md`. */
#include <stdio.h>
#include <string.h>

#include "config/settings_document.h"

static int write_file(const char *path, struct str text)
{
    FILE *file = fopen(path, "w");
    bool good = file && fwrite(text.p, 1, text.len, file) == text.len;
    good = file && fclose(file) == 0 && good;
    if (!good)
        perror(path);
    return good ? 0 : 1;
}

static void read_file(const char *path, struct buf *text)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    while (!feof(file) && !ferror(file))
        buf_commit(text, fread(buf_reserve(text, 4096), 1, 4096, file));
    fclose(file);
}

static int check_file(const char *path, struct str expected)
{
    struct buf text = { 0 };
    read_file(path, &text);
    bool same = str_eq(buf_str(&text), expected);
    buf_done(&text);
    if (!same)
        fprintf(stderr, "%s is not what config/settings.def says: run `ninja -C build docs` and commit it\n", path);
    return same ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct buf document = { 0 };
    bool check = argc == 3 && strcmp(argv[1], "--check") == 0;
    if (!check && argc != 2) {
        fprintf(stderr, "usage: settings_md [--check] FILE\n");
        return 2;
    }
    settings_document(&document);
    int outcome = check ? check_file(argv[2], buf_str(&document)) : write_file(argv[1], buf_str(&document));
    buf_done(&document);
    return outcome;
}
