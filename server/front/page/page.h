/* The web page at "/": files built into the program. */
#ifndef ASDM_FRONT_PAGE_H
#define ASDM_FRONT_PAGE_H

#include "front/http/http.h"

/* Fills `ret` with the routes and returns how many there are (at most `room` are written). They need no key: the page
 * asks for one when the server does. */
size_t page_routes(struct http_route *ret, size_t room);

#endif
