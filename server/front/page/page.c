#include "front/page/page.h"

/* A file of this folder as bytes of the program, from `name` to `name_end`. */
#define EMBED(name, file)                                                                                              \
    __asm__(".pushsection .rodata\n" #name ":\n.incbin \"" ASDM_PAGE_DIR "/" file "\"\n" #name "_end:\n.byte 0\n"      \
            ".popsection\n");                                                                                          \
    extern const char name[], name##_end[]

EMBED(page_html, "index.html");
EMBED(page_css, "page.css");
EMBED(page_js, "page.js");
EMBED(page_icon, "favicon.svg");

static const struct file {
    const char *path, *type, *data, *end;
} files[] = {
    {"/", "text/html; charset=utf-8", page_html, page_html_end},
    {"/page.css", "text/css; charset=utf-8", page_css, page_css_end},
    {"/page.js", "text/javascript; charset=utf-8", page_js, page_js_end},
    {"/favicon.svg", "image/svg+xml", page_icon, page_icon_end},
};

static void on_file(void *user, struct http_exchange *exchange) {
    const struct file *file = user;
    http_set_header(exchange, "Content-Security-Policy",
                    "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'");
    http_set_header(exchange, "Cache-Control", "no-cache");
    http_answer_static(exchange, 200, file->type, file->data, (size_t)(file->end - file->data));
}

size_t page_routes(struct http_route *ret, size_t room) {
    size_t count = sizeof files / sizeof *files;
    for (size_t i = 0; i < count && i < room; i++)
        ret[i] = (struct http_route){.method = "GET",
                                     .path = files[i].path,
                                     .name = files[i].path,
                                     .handler = on_file,
                                     .user = (void *)&files[i],
                                     .open = true};
    return count;
}
