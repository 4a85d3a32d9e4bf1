/* The text that says how a picture was made, as A1111 writes it: in every dialect's PNGs, and in A1111's answers. */
#ifndef ASDM_FRONT_INFOTEXT_H
#define ASDM_FRONT_INFOTEXT_H

#include "front/buffer.h"
#include "front/job/job.h"

/* PNG text chunk "parameters" of picture `picture` of a job's request; malloc'ed. */
char *infotext_write(const struct job_request *request, int picture, const char *model_name, const char *sha256);

/* Reads such a text (UTF-8, of this server's or another's) and writes its fields as a JSON object of texts: "Prompt",
 * "Negative prompt", then those of the last line, "Size" as "Size-1" and "Size-2". What is not such a text is all
 * prompt. */
void infotext_write_fields(const char *text, struct buffer *to);

/* A1111's names for canonical ones. */
const char *infotext_sampler_label(const char *sampler);
const char *infotext_schedule_label(const char *schedule);

#endif
