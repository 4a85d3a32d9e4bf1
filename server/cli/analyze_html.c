/* An analysis as one HTML file: charts as SVG, no scripts, nothing loaded from elsewhere. */
#include "analyze.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/files.h>

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>What is "
    "redundant</title>\n<style>\n"
    ":root { color-scheme: light dark; --ground: #f4f5f8; --panel: #fff; --line: #d5d9e2; --text: #1c2230;\n"
    "  --quiet: #596274; --accent: #3b5bcc; --faint: #b9c3e6; }\n"
    "@media (prefers-color-scheme: dark) { :root { --ground: #12151c; --panel: #1a1e27; --line: #2d3340;\n"
    "  --text: #e6e9f0; --quiet: #a0a8b8; --accent: #9db2ff; --faint: #3d4a75; } }\n"
    "*, *::before, *::after { box-sizing: border-box; }\n"
    "body { margin: 0 auto; max-width: 1120px; padding: 24px 16px 48px; background: var(--ground); color: "
    "var(--text);\n"
    "  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }\n"
    "h1 { font-size: 1.5rem; margin: 0 0 4px; } h2 { font-size: 1.1rem; margin: 0 0 4px; }\n"
    "p { margin: 0 0 12px; max-width: 72ch; } .quiet { color: var(--quiet); font-size: .9rem; }\n"
    "section { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 16px;\n"
    "  margin: 16px 0 0; min-width: 0; }\n"
    ".charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 0 16px; }\n"
    ".wide { overflow-x: auto; } svg { display: block; width: 100%; max-width: 440px; height: auto; }\n"
    "table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; overflow-wrap: normal; "
    "}\n"
    "th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }\n"
    "th { color: var(--quiet); font-weight: 600; } th:first-child, td:first-child, .left { text-align: left; }\n"
    "td.left { white-space: normal; min-width: 6.5em; }\n"
    "tr.chosen td { font-weight: 600; color: var(--accent); } ol { margin: 0; padding-left: 1.5em; }\n"
    "svg text { font: 12.5px system-ui, sans-serif; fill: var(--text); } svg .q { fill: var(--quiet); }\n"
    "svg .grid { stroke: var(--line); } svg .path { stroke: var(--accent); fill: none; stroke-width: 1.5; }\n"
    "svg .dot { fill: var(--accent); } svg .other { fill: var(--faint); } svg .box { fill: var(--faint); }\n"
    "svg .mark { stroke: var(--accent); stroke-width: 2; } svg .range { stroke: var(--quiet); }\n"
    "</style>\n</head>\n<body>\n";

/* What markup reads otherwise, and control characters, which it may not have, as references and spaces. */
static void write_text(FILE *out, const char *text) {
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (strchr("&<>\"'", *c))
            fprintf(out, "&#%d;", *c);
        else
            fputc(*c < 0x20 || *c == 0x7f ? ' ' : *c, out);
}

static void write_names(FILE *out, const struct asdm_analysis *a, unsigned set, const char *between) {
    bool first = true;
    for (int i = 0; i < a->unit_count; i++)
        if (set & 1u << i) {
            fprintf(out, "%s%s", first ? "" : between, a->units[i].name);
            first = false;
        }
}

/* ---- charts. Drawn 340 wide, so that text stays readable on a phone. */

enum { LEFT = 38, RIGHT = 328, TOP = 12, BOTTOM = 200, WIDTH = 340, ROW = 26 };

struct axis {
    double least, most, step; /* of what is shown */
    double from, to;          /* on the paper */
};

static double place(const struct axis *axis, double value) {
    return axis->from + (value - axis->least) / (axis->most - axis->least) * (axis->to - axis->from);
}

/* 1, 2 or 5 times a power of ten, so that `least` .. `most` has at most six steps; both are rounded outwards to one. */
static struct axis make_axis(double least, double most, double from, double to) {
    most = most > least ? most : least + 1;
    double range = most - least, power = pow(10, floor(log10(range / 5)));
    double step = range / 5 <= power       ? power
                  : range / 5 <= 2 * power ? 2 * power
                  : range / 5 <= 5 * power ? 5 * power
                                           : 10 * power;
    return (struct axis){floor(least / step + 1e-9) * step, ceil(most / step - 1e-9) * step, step, from, to};
}

static void write_x_axis(FILE *out, const struct axis *x, double bottom, const char *label) {
    for (int i = 0; x->least + i * x->step <= x->most + x->step / 2; i++) {
        double value = x->least + i * x->step;
        fprintf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%.1f\"/>", place(x, value),
                place(x, value), TOP, bottom);
        fprintf(out, "<text class=\"q\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n", place(x, value),
                bottom + 14, round(value * 1e6) / 1e6);
    }
    fprintf(out, "<text class=\"q\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", RIGHT, bottom + 29, label);
}

static void write_y_axis(FILE *out, const struct axis *y) {
    for (int i = 0; y->least + i * y->step <= y->most + y->step / 2; i++) {
        double value = y->least + i * y->step;
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, RIGHT, place(y, value),
                place(y, value));
        fprintf(out, "<text class=\"q\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT - 5,
                place(y, value) + 3.5, round(value * 1e6) / 1e6);
    }
}

/* Damage over speed-up: all that was measured, and the way that the search took. */
static void write_path_chart(FILE *out, const struct asdm_analysis *a) {
    double fastest = 1, worst = 0, slowest = 1;
    for (int i = 0; i < a->trial_count; i++) {
        fastest = fmax(fastest, a->trials[i].full_ms / a->trials[i].ms);
        slowest = fmin(slowest, a->trials[i].full_ms / a->trials[i].ms);
        worst = fmax(worst, a->trials[i].damage.mean);
    }
    struct axis x = make_axis(slowest < 0.99 ? slowest : 1, fastest, LEFT, RIGHT);
    struct axis y = make_axis(0, worst, BOTTOM, TOP + 8);
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Damage over speed-up\">\n", WIDTH, BOTTOM + 34);
    write_x_axis(out, &x, BOTTOM, "times as fast");
    write_y_axis(out, &y);
    for (int i = 0; i < a->trial_count; i++) {
        const struct asdm_trial *t = &a->trials[i];
        fprintf(out, "<circle class=\"other\" r=\"3\" cx=\"%.1f\" cy=\"%.1f\"><title>",
                place(&x, fmax(x.least, t->full_ms / t->ms)), place(&y, t->damage.mean));
        write_names(out, a, t->removed, " + ");
        fputs("</title></circle>\n", out);
    }
    fprintf(out, "<path class=\"path\" d=\"M%.1f %.1f", place(&x, 1), place(&y, 0));
    for (int i = 0; i < a->path_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, a->path[i]);
        fprintf(out, " L%.1f %.1f", place(&x, fmax(x.least, t->full_ms / t->ms)), place(&y, t->damage.mean));
    }
    fputs("\"/>\n", out);
    for (int i = 0; i < a->path_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, a->path[i]);
        double cx = place(&x, fmax(x.least, t->full_ms / t->ms)), cy = place(&y, t->damage.mean);
        fprintf(out, "<circle class=\"dot\" r=\"3.5\" cx=\"%.1f\" cy=\"%.1f\"/>", cx, cy);
        fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d</text>\n", cx, cy - (i % 2 ? 18 : 7),
                i + 1);
    }
    fputs("</svg>\n", out);
}

/* Damage by unit: from the least to the most row, the middle half as a box, the mean as a mark. */
static void write_unit_chart(FILE *out, const struct asdm_analysis *a) {
    double worst = 0;
    int count = 0;
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        worst = t ? fmax(worst, t->damage.max) : worst;
        count += t != NULL;
    }
    struct axis x = make_axis(0, worst, LEFT + 16, RIGHT);
    int bottom = TOP + 8 + count * ROW, row = 0;
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"Damage by unit\">\n", WIDTH, bottom + 34);
    write_x_axis(out, &x, bottom, "damage");
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        if (!t)
            continue;
        double y = TOP + 8 + (row++ + 0.5) * ROW;
        const struct asdm_spread *d = &t->damage;
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>", LEFT + 10, y + 3.5, a->units[i].name);
        fprintf(out, "<line class=\"range\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", place(&x, d->min),
                place(&x, d->max), y, y);
        fprintf(out, "<rect class=\"box\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"12\" rx=\"2\"/>",
                place(&x, d->quartiles[0]), y - 6, fmax(1, place(&x, d->quartiles[2]) - place(&x, d->quartiles[0])));
        fprintf(out, "<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", place(&x, d->mean),
                place(&x, d->mean), y - 8, y + 8);
    }
    fputs("</svg>\n", out);
}

/* ---- tables */

static void write_units(FILE *out, const struct asdm_analysis *a) {
    fputs(
        "<section><h2>Each unit alone</h2>\n<p class=\"quiet\">Parameters and GMAC (of a row, attention counted) that "
        "go, milliseconds of a call that are saved, and the damage: mean, standard deviation, least, quartiles, most."
        "</p>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>unit</th><th>parameters</th><th>GMAC</th><th>ms "
        "saved</th>"
        "<th>damage</th><th>&plusmn;</th><th>least</th><th>25 %</th><th>median</th><th>75 %</th><th>most</th>"
        "<th>damage / ms</th></tr>\n",
        out);
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        if (!t)
            continue;
        const struct asdm_spread *d = &t->damage;
        double saved = asdm_analysis_saved_ms(a, t);
        fprintf(out,
                "<tr><td>%s</td><td>%lld</td><td>%.3f</td><td>%.3f</td><td>%.4f</td><td>%.4f</td><td>%.4f</td>"
                "<td>%.4f</td><td>%.4f</td><td>%.4f</td><td>%.4f</td>",
                a->units[i].name, (long long)(a->full.parameters - t->size.parameters), a->full.gmac - t->size.gmac,
                saved, d->mean, d->deviation, d->min, d->quartiles[0], d->quartiles[1], d->quartiles[2], d->max);
        fprintf(out, saved > 0 ? "<td>%.5f</td></tr>\n" : "<td>&ndash;</td></tr>\n", d->mean / saved);
    }
    fputs("</table></div>\n", out);
    for (int i = 0; i < a->covered_count; i++)
        fprintf(out, "<p class=\"quiet\">%s changes nothing: a window of %d covers the map.</p>\n", a->covered[i].name,
                a->gri_window);
    fputs("</section>\n", out);
}

static void write_set_row(FILE *out, const struct asdm_analysis *a, const struct asdm_trial *t, int number) {
    fputs(t->removed == a->chosen ? "<tr class=\"chosen\"><td>" : "<tr><td>", out);
    if (number)
        fprintf(out, "%d", number);
    fputs("</td><td class=\"left\">", out);
    write_names(out, a, t->removed, " + ");
    fprintf(out, "</td><td>%.3f</td><td>%.4f</td><td>%.4f</td><td>%.3f</td><td>%lld</td><td>%.3f</td></tr>\n",
            t->full_ms / t->ms, t->damage.mean, t->damage.deviation, asdm_analysis_saved_ms(a, t),
            (long long)t->size.parameters, t->size.gmac);
}

static void write_sets(FILE *out, const struct asdm_analysis *a) {
    fputs("<section><h2>Sets of units</h2>\n<p class=\"quiet\">Numbered: the greedy order, least additional damage per "
          "additional millisecond. Parameters and GMAC are what is left.</p>\n<div class=\"wide\" "
          "tabindex=\"0\"><table>\n"
          "<tr><th></th><th class=\"left\">removed</th><th>speed-up</th><th>damage</th><th>&plusmn;</th><th>ms "
          "saved</th><th>parameters</th>"
          "<th>GMAC</th></tr>\n",
          out);
    for (int i = 0; i < a->path_count; i++)
        write_set_row(out, a, asdm_analysis_trial(a, a->path[i]), i + 1);
    for (int i = 0; i < a->trial_count; i++) {
        bool on_path = false;
        for (int k = 0; k < a->path_count; k++)
            on_path |= a->path[k] == a->trials[i].removed;
        if (!on_path)
            write_set_row(out, a, &a->trials[i], 0);
    }
    fputs("</table></div></section>\n", out);
}

static const struct asdm_block_damage *find_block(const struct asdm_trial *trial, const char *name) {
    for (int b = 0; trial && b < trial->block_count; b++)
        if (strcmp(trial->blocks[b].name, name) == 0)
            return &trial->blocks[b];
    return NULL;
}

/* All blocks that some unit's trial has, in the order of the one that has most. */
static void write_blocks(FILE *out, const struct asdm_analysis *a) {
    const struct asdm_trial *most = NULL;
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        if (t && (!most || t->block_count > most->block_count))
            most = t;
    }
    if (!most || !most->block_count)
        return;
    fputs(
        "<section><h2>Damage of each block's result</h2>\n<p class=\"quiet\">Mean of |light - whole| / |whole| of what "
        "leaves the block, its down- or upsampler included, when the unit is removed.</p>\n<div class=\"wide\" "
        "tabindex=\"0\"><table>"
        "\n<tr><th>unit</th>",
        out);
    for (int b = 0; b < most->block_count; b++)
        fprintf(out, "<th>%s</th>", most->blocks[b].name);
    fputs("</tr>\n", out);
    for (int i = 0; i < a->unit_count; i++) {
        const struct asdm_trial *t = asdm_analysis_trial(a, 1u << i);
        fprintf(out, "<tr><td>%s</td>", a->units[i].name);
        for (int b = 0; b < most->block_count; b++) {
            const struct asdm_block_damage *block = find_block(t, most->blocks[b].name);
            if (block)
                fprintf(out, "<td>%.4f</td>", block->damage.mean);
            else
                fputs("<td>&ndash;</td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table></div></section>\n", out);
}

static void write_summary(FILE *out, const struct asdm_analysis *a) {
    fputs("<h1>What is redundant in ", out);
    write_text(out, a->model);
    fprintf(out,
            "</h1>\n<p class=\"quiet\">%lld parameters, %.2f GMAC a row. Timed on %s in %s: a call of %d row(s) of "
            "%d&times;%d pixels takes %.2f ms; medians of %d calls.</p>\n",
            (long long)a->full.parameters, a->full.gmac, a->device, a->dtype, a->rows, a->width, a->height,
            asdm_analysis_full_ms(a), a->runs);
    fprintf(out,
            "<p>Damage is how far the predicted noise moves when units are removed and nothing is trained: |light - "
            "whole| / |whole|, over %d rows (%d prompts%s, %d steps of %s, guidance %g).%s</p>\n",
            a->row_count, a->prompt_count, a->guidance_scale > 1 ? " and the empty one" : "", a->steps, a->sampler,
            a->guidance_scale, a->random_weights ? " The weights are random, so it means nothing here." : "");
    if (a->chosen) {
        const struct asdm_trial *t = asdm_analysis_trial(a, a->chosen);
        fputs("<p><strong>Chosen: ", out);
        write_names(out, a, a->chosen, " + ");
        fprintf(out, "</strong>, %.3f times as fast, damage %.4f.</p>\n", t->full_ms / t->ms, t->damage.mean);
    }
}

static void write_page(FILE *out, const struct asdm_analysis *a) {
    fputs(head, out);
    write_summary(out, a);
    fputs(
        "<div class=\"charts\">\n<section><h2>Damage and speed</h2>\n<p class=\"quiet\">The line is the greedy order, "
        "numbered as in the table; pale dots are the other sets that were measured.</p>\n",
        out);
    write_path_chart(out, a);
    fputs(
        "</section>\n<section><h2>Damage of each unit alone</h2>\n<p class=\"quiet\">From the least to the most of all "
        "rows; the box holds the middle half, the mark is the mean.</p>\n",
        out);
    write_unit_chart(out, a);
    fputs("</section>\n</div>\n", out);
    write_units(out, a);
    write_sets(out, a);
    write_blocks(out, a);
    fputs("<section><h2>Prompts</h2>\n<ol>\n", out);
    for (int i = 0; i < a->prompt_count; i++) {
        fputs("<li>", out);
        write_text(out, a->prompts[i]);
        fputs("</li>\n", out);
    }
    fputs("</ol></section>\n</body>\n</html>\n", out);
}

enum asdm_status cli_analysis_write_html(const struct asdm_analysis *analysis, const char *path,
                                         struct asdm_error *err) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out)
        write_page(out, analysis);
    enum asdm_status status = ASDM_ERR_MEMORY;
    if (!out || fclose(out) != 0) {
        snprintf(err->message, sizeof err->message, "no memory for a report");
        err->status = status;
    } else {
        status = asdm_write_bytes(path, text, size, err);
    }
    free(text);
    return status;
}
