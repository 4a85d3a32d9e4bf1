/* An analysis as JSON. */
#include "light/analysis.h"

#include <stdio.h>
#include <string.h>

#include <asdm/error.h>
#include "base/file.h"
#include "base/json_scan.h"

/* Names of files need not be UTF-8, JSON must be: what is none becomes U+FFFD. */
static void write_text(FILE *out, const char *text) {
    fputc('"', out);
    for (size_t left = strlen(text), length; left; text += length, left -= length) {
        unsigned char c = (unsigned char)*text;
        length = asdm_utf8_length(text, left);
        if (!length) {
            fputs("\\ufffd", out);
            length = 1;
        } else if (c == '"' || c == '\\' || c < 0x20) {
            fprintf(out, "\\u%04x", c);
        } else {
            fwrite(text, 1, length, out);
        }
    }
    fputc('"', out);
}

static void write_spread(FILE *out, const struct asdm_spread *s) {
    fprintf(out,
            "{\"mean\": %.17g, \"deviation\": %.17g, \"min\": %.17g, \"quartiles\": [%.17g, %.17g, %.17g], "
            "\"max\": %.17g}",
            s->mean, s->deviation, s->min, s->quartiles[0], s->quartiles[1], s->quartiles[2], s->max);
}

static void write_set(FILE *out, const struct asdm_analysis *a, unsigned set) {
    bool first = true;
    fputc('[', out);
    for (int i = 0; i < a->unit_count; i++)
        if (set & 1u << i) {
            fprintf(out, "%s\"%s\"", first ? "" : ", ", a->units[i].name);
            first = false;
        }
    fputc(']', out);
}

static void write_head(FILE *out, const struct asdm_analysis *a, bool complete) {
    fprintf(out, "{\n\"asdm_analysis\": %d,\n\"complete\": %s,\n\"model\": ", ASDM_ANALYSIS_VERSION,
            complete ? "true" : "false");
    write_text(out, a->model);
    fprintf(out,
            ",\n\"fingerprint\": \"%016llx\",\n\"random_weights\": %s,\n\"device\": \"%s\",\n\"dtype\": \"%s\",\n"
            "\"threads\": %d,\n\"gri_window\": %d,\n\"gri_pool\": %d,\n\"rows\": %d,\n\"runs\": %d,\n\"width\": "
            "%d,\n\"height\": %d,\n\"sampler\": \"%s\",\n"
            "\"steps\": %d,\n\"guidance_scale\": %.17g,\n\"seed\": \"%llu\",\n\"evaluations\": %d,\n"
            "\"calibration_rows\": %d,\n\"prompts\": [",
            (unsigned long long)a->fingerprint, a->random_weights ? "true" : "false", a->device, a->dtype, a->threads,
            a->gri_window, a->gri_pool, a->rows, a->runs, a->width, a->height, a->sampler, a->steps, a->guidance_scale,
            (unsigned long long)a->seed, a->evaluations, a->row_count);
    for (int i = 0; i < a->prompt_count; i++) {
        fputs(i ? ",\n  " : "\n  ", out);
        write_text(out, a->prompts[i]);
    }
    fprintf(
        out,
        "],\n\"unet\": {\"parameters\": %lld, \"gmac\": %.17g, \"step_gmac\": %.17g, \"bytes\": %lld, \"ms\": %.17g}",
        (long long)a->full.parameters, a->full.gmac, a->full.step_gmac, (long long)a->full.bytes,
        asdm_analysis_full_ms(a));
}

/* What each unit alone is and does; its numbers are null until it is measured. */
static void write_units(FILE *out, const struct asdm_analysis *a) {
    fputs(",\n\"units\": [", out);
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_unit *unit = &a->units[i];
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        fprintf(out, "%s\n  {\"name\": \"%s\", \"kind\": \"%s\", \"stage\": %d, ", i ? "," : "", unit->name,
                asdm_unit_kind_name(unit->kind), unit->stage);
        if (t)
            fprintf(out, "\"parameters\": %lld, \"gmac\": %.17g, \"saved_ms\": %.17g, \"damage\": %.17g}",
                    (long long)(a->full.parameters - t->size.parameters), a->full.gmac - t->size.gmac,
                    asdm_analysis_saved_ms(a, t), t->damage.mean);
        else
            fputs("\"parameters\": null, \"gmac\": null, \"saved_ms\": null, \"damage\": null}", out);
    }
    fputs("],\n\"covered\": [", out);
    for (int i = 0; i < a->covered_count; i++)
        fprintf(out, "%s{\"name\": \"%s\", \"kind\": \"%s\", \"stage\": %d}", i ? ", " : "", a->covered[i].name,
                asdm_unit_kind_name(a->covered[i].kind), a->covered[i].stage);
    fputs("]", out);
}

static void write_trial(FILE *out, const struct asdm_analysis *a, const struct asdm_trial *t) {
    fputs("{\"removed\": ", out);
    write_set(out, a, t->removed);
    fprintf(
        out,
        ", \"parameters\": %lld, \"gmac\": %.17g, \"step_gmac\": %.17g, \"bytes\": %lld, \"full_ms\": %.17g, \"ms\": "
        "%.17g,\n   "
        "\"damage\": ",
        (long long)t->size.parameters, t->size.gmac, t->size.step_gmac, (long long)t->size.bytes, t->full_ms, t->ms);
    write_spread(out, &t->damage);
    fputs(t->block_count ? ",\n   \"blocks\": [" : "", out);
    for (int b = 0; b < t->block_count; b++) {
        fprintf(out, "%s\n    {\"name\": \"%s\", \"damage\": ", b ? "," : "", t->blocks[b].name);
        write_spread(out, &t->blocks[b].damage);
        fputs("}", out);
    }
    fputs(t->block_count ? "]}" : "}", out);
}

static void write_search(FILE *out, const struct asdm_analysis *a) {
    fputs(",\n\"order\": [", out);
    for (int i = 0; i < a->path_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, a->path[i]);
        char add[160];
        asdm_analysis_names(a, a->path[i] & ~(i ? a->path[i - 1] : 0), add, sizeof add);
        fprintf(out, "%s\n  {\"add\": \"%s\", \"removed\": ", i ? "," : "", add);
        write_set(out, a, a->path[i]);
        fprintf(out, ", \"saved_ms\": %.17g, \"speedup\": %.17g, \"damage\": %.17g}", asdm_analysis_saved_ms(a, t),
                t->full_ms / t->ms, t->damage.mean);
    }
    fputs("]", out);
    if (a->chosen) {
        fputs(",\n\"chosen\": ", out);
        write_set(out, a, a->chosen);
    }
}

enum asdm_status asdm_analysis_write(const struct asdm_analysis *a, const char *path, bool complete,
                                     struct asdm_error *err) {
    struct asdm_file_writer writer = {0};
    ASDM_TRY(asdm_file_writer_open(&writer, path, err));
    FILE *out = writer.stream;
    write_head(out, a, complete);
    write_units(out, a);
    fputs(",\n\"trials\": [", out);
    for (int i = 0; i < a->trial_count; i++) {
        fputs(i ? ",\n  " : "\n  ", out);
        write_trial(out, a, &a->trials[i]);
    }
    fputs("]", out);
    write_search(out, a);
    fputs("\n}\n", out);
    return asdm_file_writer_commit(&writer, err);
}
