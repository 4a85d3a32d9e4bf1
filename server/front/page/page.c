#include "front/page/page.h"

#include <page_stamp.h>

/* Puts a file of ASDM_PAGE_DIR into the read-only data, from page_<name> to page_<name>_end. */
#define EMBED(name, file)                                                                                              \
    __asm__(".pushsection .rodata\n"                                                                                   \
            ".global page_" #name ", page_" #name "_end\n"                                                             \
            "page_" #name ":\n"                                                                                        \
            ".incbin \"" ASDM_PAGE_DIR "/" file "\"\n"                                                                 \
            "page_" #name "_end:\n"                                                                                    \
            ".popsection\n");                                                                                          \
    extern const char page_##name[], page_##name##_end[]

EMBED(html, "index.html");
EMBED(css, "page.css");
EMBED(script, "page.js");
EMBED(icon, "favicon.svg");

struct page_file {
    const char *path, *content_type, *data, *end;
};

static const struct page_file files[] = {
    {"/", "text/html; charset=utf-8", page_html, page_html_end},
    {"/page.css", "text/css; charset=utf-8", page_css, page_css_end},
    {"/page.js", "text/javascript; charset=utf-8", page_script, page_script_end},
    {"/favicon.svg", "image/svg+xml", page_icon, page_icon_end},
};

static void answer_file(void *user, struct http_exchange *exchange) {
    const struct page_file *file = user;
    /* Pictures of the session are blob: addresses, previews data: ones. */
    http_set_header(exchange, "Content-Security-Policy",
                    "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
                    "frame-ancestors 'none'");
    http_set_header(exchange, "Referrer-Policy", "no-referrer"); /* addresses of pictures hold their tokens */
    http_set_header(exchange, "Cache-Control", "no-cache");      /* the page and its script are of one version */
    http_answer_static(exchange, 200, file->content_type, file->data, (size_t)(file->end - file->data));
}

size_t page_routes(struct http_route *ret, size_t room) {
    size_t count = sizeof files / sizeof *files;
    for (size_t i = 0; i < count && i < room; i++)
        ret[i] = (struct http_route){.method = "GET",
                                     .path = files[i].path,
                                     .name = files[i].path,
                                     .handler = answer_file,
                                     .user = (void *)&files[i],
                                     .open = true};
    return count;
}
