/* C++'s operator new for the process, with free lists for small blocks.
 *
 * oneDNN makes a map of a primitive's arguments each time it is executed: a handful of small blocks, freed at once.
 * With these lists they come back to the next execution, so that a step never reaches the system's allocator, as the
 * engine promises. oneDNN is the only C++ that runs here, and it binds to the operators of the executable that it is
 * loaded by.
 *
 * Left out under AddressSanitizer, which owns the operators then. */
#if !defined(__SANITIZE_ADDRESS__)

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

constexpr std::size_t GRAIN = 32, CLASSES = 32; /* blocks of 32, 64, ... 1024 bytes are kept */

/* Stands before every block. Padded so that the block is aligned for any type. */
struct alignas(std::max_align_t) header {
    std::size_t list; /* CLASSES: not from a list */
    header *next;     /* while free */
};

/* The lists are touched for a few instructions at a time: a spin lock is enough. */
struct free_list {
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    header *first = nullptr;
};

free_list lists[CLASSES];

header *pop(free_list &list) {
    while (list.busy.test_and_set(std::memory_order_acquire)) {
    }
    header *block = list.first;
    if (block)
        list.first = block->next;
    list.busy.clear(std::memory_order_release);
    return block;
}

void push(free_list &list, header *block) {
    while (list.busy.test_and_set(std::memory_order_acquire)) {
    }
    block->next = list.first;
    list.first = block;
    list.busy.clear(std::memory_order_release);
}

void *allocate(std::size_t size) noexcept {
    std::size_t list = size ? (size - 1) / GRAIN : 0;
    header *block = list < CLASSES ? pop(lists[list]) : nullptr;
    if (!block) {
        std::size_t room = list < CLASSES ? (list + 1) * GRAIN : size;
        if (room > static_cast<std::size_t>(-1) - sizeof(header))
            return nullptr;
        block = static_cast<header *>(std::malloc(sizeof(header) + room));
        if (!block)
            return nullptr;
        block->list = list < CLASSES ? list : CLASSES;
    }
    return block + 1;
}

void release(void *memory) noexcept {
    if (!memory)
        return;
    header *block = static_cast<header *>(memory) - 1;
    if (block->list < CLASSES)
        push(lists[block->list], block);
    else
        std::free(block);
}

} // namespace

void *operator new(std::size_t size) {
    void *memory = allocate(size);
    if (!memory)
        throw std::bad_alloc();
    return memory;
}

void *operator new[](std::size_t size) {
    return operator new(size);
}

void *operator new(std::size_t size, const std::nothrow_t &) noexcept {
    return allocate(size);
}

void *operator new[](std::size_t size, const std::nothrow_t &) noexcept {
    return allocate(size);
}

void operator delete(void *memory) noexcept {
    release(memory);
}

void operator delete[](void *memory) noexcept {
    release(memory);
}

void operator delete(void *memory, std::size_t) noexcept {
    release(memory);
}

void operator delete[](void *memory, std::size_t) noexcept {
    release(memory);
}

void operator delete(void *memory, const std::nothrow_t &) noexcept {
    release(memory);
}

void operator delete[](void *memory, const std::nothrow_t &) noexcept {
    release(memory);
}

#endif
