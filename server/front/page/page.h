/* The page at `/`: static files, in the program itself. */
#ifndef ASDM_FRONT_PAGE_H
#define ASDM_FRONT_PAGE_H

#include "front/http/http.h"

/* Fills `ret` with the page's routes and returns how many there are (at most `room` are written). */
size_t page_routes(struct http_route *ret, size_t room);

#endif
