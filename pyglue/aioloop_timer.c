/* aioloop_timer: a 4-ary min-heap of timers by due time. Each timer knows its place, so that cancelling takes it out
 * at once: most timers (time limits) never fire, and none lingers after it was cancelled. */
#include "pyglue/aioloop_impl.h"

#define ARITY 4

static void place_entry(struct timer_heap *heap, Py_ssize_t place, struct timer_entry entry)
{
    heap->entries[place] = entry;
    entry.timer->place = place;
}

static void sift_up(struct timer_heap *heap, Py_ssize_t place, struct timer_entry entry)
{
    while (place > 0) {
        Py_ssize_t parent = (place - 1) / ARITY;
        if (heap->entries[parent].when <= entry.when)
            break;
        place_entry(heap, place, heap->entries[parent]);
        place = parent;
    }
    place_entry(heap, place, entry);
}

static Py_ssize_t least_child(const struct timer_heap *heap, Py_ssize_t place)
{
    Py_ssize_t child = place * ARITY + 1, least = child;
    Py_ssize_t end = child + ARITY < heap->count ? child + ARITY : heap->count;
    while (++child < end)
        if (heap->entries[child].when < heap->entries[least].when)
            least = child;
    return least;
}

static void sift_down(struct timer_heap *heap, Py_ssize_t place, struct timer_entry entry)
{
    while (place * ARITY + 1 < heap->count) {
        Py_ssize_t child = least_child(heap, place);
        if (entry.when <= heap->entries[child].when)
            break;
        place_entry(heap, place, heap->entries[child]);
        place = child;
    }
    place_entry(heap, place, entry);
}

static int timer_heap_grow(struct timer_heap *heap)
{
    Py_ssize_t capacity = heap->capacity ? heap->capacity * 2 : 64;
    struct timer_entry *entries = PyMem_Realloc(heap->entries, (size_t)capacity * sizeof(*entries));
    if (entries == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    heap->entries = entries;
    heap->capacity = capacity;
    return 0;
}

int timer_heap_add(struct timer_heap *heap, struct timer *timer)
{
    if (heap->count == heap->capacity && timer_heap_grow(heap) < 0)
        return -1;
    Py_INCREF(timer);
    sift_up(heap, heap->count++, (struct timer_entry){ timer->when, timer });
    return 0;
}

struct timer *timer_heap_take(struct timer_heap *heap, Py_ssize_t place)
{
    struct timer *timer = heap->entries[place].timer;
    struct timer_entry last = heap->entries[--heap->count];
    timer->place = -1;
    if (last.timer == timer)
        return timer;
    if (place > 0 && last.when < heap->entries[(place - 1) / ARITY].when)
        sift_up(heap, place, last);
    else
        sift_down(heap, place, last);
    return timer;
}
