/* fuzz: what the fuzz targets share. A target is LLVMFuzzerTestOneInput(): with libFuzzer (clang) it is run by that; compiled with
 * -DCORPUS_RUNNER it is a program that runs the files it is given. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_INPUT_MAX 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void expect(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

#ifdef CORPUS_RUNNER
int main(int argc, char **argv)
{
    static uint8_t bytes[FUZZ_INPUT_MAX + 1];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) {
            perror(argv[i]);
            return 1;
        }
        size_t n = fread(bytes, 1, sizeof(bytes), file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, n);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
#endif
