/* front/config.h */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "front/config.h"

static char folder[] = "/tmp/asdm-config-XXXXXX";
static char path[sizeof folder + 16];

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/asdmd.json", folder);
    return unsetenv("ASDM_API_KEYS_FILE");
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_file(const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

#define MODEL "models.m=/m"

static void load_good(const char *file, const char *const *overrides, struct config *ret) {
    struct asdm_error err = {0};
    if (file)
        write_file(file);
    if (config_load(file ? path : NULL, overrides, ret, &err) != ASDM_OK)
        fail_msg("%s: %s", file ? file : "overrides", err.message);
}

static void assert_refused(const char *file, const char *const *overrides, const char *message) {
    struct config config = {.listen_port = -7};
    struct asdm_error err = {0};
    if (file)
        write_file(file);
    if (config_load(file ? path : NULL, overrides, &config, &err) == ASDM_OK)
        fail_msg("not refused: %s", message);
    if (!strstr(err.message, message))
        fail_msg("\"%s\" is not in \"%s\"", message, err.message);
    assert_int_equal(config.listen_port, -7);
    assert_null(config.listen_host);
}

static void defaults_are_as_the_header_says(void **state) {
    (void)state;
    struct config c;
    load_good(NULL, (const char *[]){MODEL, NULL}, &c);
    assert_string_equal(c.listen_host, "127.0.0.1");
    assert_int_equal(c.listen_port, 8080);
    assert_true(!c.tls_certificate && !c.tls_key && !c.api_keys && !c.worker && !c.public_url);
    assert_string_equal(c.device, "auto");
    assert_string_equal(c.dtype, "auto");
    assert_true(c.threads == 0 && c.rows_max == 16 && c.memory_mb == 0 && c.step_timeout_ms == 120000 &&
                c.load_timeout_ms == 300000 && c.attempts_max == 3 && c.shared_memory_mb == 256);
    assert_true(c.queue_pictures_max == 256 && c.default_deadline_ms == 0 && c.pixels_max == 4194304 &&
                c.steps_max == 150 && c.count_max == 10 && c.result_ttl_s == 3600 && c.result_memory_mb == 512 &&
                c.png_threads == 2 && c.png_level == 0);
    assert_true(c.connections_max == 4096 && c.body_bytes_max == 64 << 20 && c.header_timeout_ms == 10000 &&
                c.body_timeout_ms == 60000 && c.idle_timeout_ms == 60000 && c.http_threads == 4);
    assert_true(c.drain_timeout_ms == 30000 && c.access_log);
    assert_int_equal(c.model_count, 1);
    assert_string_equal(c.models[0].name, "m");
    assert_string_equal(c.models[0].path, "/m");
    assert_true(!c.models[0].tokenizer && !c.models[0].device && !c.models[0].dtype);
    config_done(&c);
}

static void a_file_and_overrides_over_it(void **state) {
    (void)state;
    struct config c;
    load_good(
        "{\"listen\": \"[::1]:0\", \"tls\": {\"certificate\": \"c.pem\", \"key\": \"/k.pem\"}, \"access_log\": false,"
        " \"api_keys\": null, \"public_url\": \"https://x.org/asdm/\","
        " \"models\": [{\"name\": \"a\", \"path\": \"models/a\", \"tokenizer\": \"t\", \"device\": \"cuda:1\","
        " \"dtype\": \"fp16\"}, {\"name\": \"b\", \"path\": \"/b\", \"dtype\": null}],"
        " \"worker\": {\"rows_max\": 8}, \"queue\": {\"pictures_max\": 5}}",
        (const char *[]){"queue.pictures_max=7", "models.b=c", "models.d.x=/d", "worker.device=cpu", "access_log=true",
                         NULL},
        &c);
    assert_string_equal(c.listen_host, "::1");
    assert_int_equal(c.listen_port, 0);
    char expected[128];
    snprintf(expected, sizeof expected, "%s/c.pem", folder);
    assert_string_equal(c.tls_certificate, expected);
    assert_string_equal(c.tls_key, "/k.pem");
    assert_string_equal(c.public_url, "https://x.org/asdm");
    assert_int_equal(c.model_count, 3);
    snprintf(expected, sizeof expected, "%s/models/a", folder);
    assert_string_equal(c.models[0].path, expected);
    assert_string_equal(c.models[0].device, "cuda:1");
    assert_string_equal(c.models[0].dtype, "fp16");
    assert_string_equal(c.models[1].path, "c");
    assert_null(c.models[1].dtype);
    assert_string_equal(c.models[2].name, "d.x");
    assert_string_equal(c.device, "cpu");
    assert_true(c.rows_max == 8 && c.queue_pictures_max == 7 && c.access_log);
    config_done(&c);
}

static void the_shipped_file_has_the_defaults(void **state) {
    (void)state;
    struct config file, defaults;
    struct asdm_error err = {0};
    if (config_load(ASDM_CONFIG_DIR "/asdmd.json", NULL, &file, &err) != ASDM_OK)
        fail_msg("%s", err.message);
    load_good(NULL, (const char *[]){MODEL, NULL}, &defaults);
    assert_int_equal(access(file.models[0].path, R_OK), 0);
    assert_string_equal(file.listen_host, defaults.listen_host);
    assert_string_equal(file.device, defaults.device);
    assert_string_equal(file.dtype, defaults.dtype);
    assert_true(!file.tls_certificate && !file.tls_key && !file.api_keys && !file.public_url && !file.worker);
    /* The numbers from `threads` on follow each other in the structure. */
    size_t from = offsetof(struct config, threads), to = offsetof(struct config, access_log) + sizeof(bool);
    assert_memory_equal((char *)&file + from, (char *)&defaults + from, to - from);
    assert_int_equal(file.listen_port, defaults.listen_port);
    config_done(&file);
    config_done(&defaults);
}

static void bad_files_name_the_key_and_what_is_allowed(void **state) {
    (void)state;
    static const struct {
        const char *file, *message;
    } cases[] = {
        {"[]", "must be an object"},
        {"{\"listen\"", "line 1"},
        {"{\"listne\": 1}", "listne: unknown key; known: listen, tls.certificate, tls.key"},
        {"{\"queue\": {\"depth\": 1}}", "queue.depth: unknown key"},
        {"{\"queue.pictures_max\": 1}", "queue.pictures_max: unknown key"},
        {"{\"queue\": {\"queue\": {}}}", "queue.queue: unknown key"},
        {"{\"queue\": 1}", "queue: must be an object, is a number"},
        {"{\"queue\": {\"pictures_max\": 0}}", "queue.pictures_max: must be an integer from 1 to 100000, is \"0\""},
        {"{\"queue\": {\"pictures_max\": 1.5}}", "queue.pictures_max: must be an integer from 1 to 100000, is \"1.5\""},
        {"{\"queue\": {\"pictures_max\": 1e30}}", "queue.pictures_max: must be an integer"},
        {"{\"queue\": {\"pictures_max\": \"5\"}}", "queue.pictures_max: must be an integer from 1 to 100000, is a "},
        {"{\"queue\": {\"pictures_max\": null}}", "queue.pictures_max: must be an integer"},
        {"{\"access_log\": 1}", "access_log: must be true or false, is a number"},
        {"{\"api_keys\": 1}", "api_keys: must be a path, is a number"},
        {"{\"api_keys\": \"\"}", "api_keys: must be a path, is \"\""},
        {"{\"listen\": null}", "listen: must be ADDRESS:PORT"},
        {"{\"public_url\": \"ftp://x\"}", "public_url: must be an address that begins with http://"},
        {"{\"public_url\": \"http://a b\"}", "public_url: must be"},
        {"{\"worker\": {\"dtype\": \"int8\"}}", "worker.dtype: must be auto, fp32, bf16 or fp16, is \"int8\""},
        {"{\"worker\": {\"device\": \"cuda:\"}}", "worker.device: must be auto, cpu, ref, cuda or cuda:N"},
        {"{\"models\": {}}", "models: must be a list of 1 to 16 objects, is an object"},
        {"{\"models\": []}", "models: must be a list of 1 to 16 objects"},
        {"{\"models\": [1]}", "models[0]: must be an object, is a number"},
        {"{\"models\": [{\"path\": \"x\"}]}", "models[0].name: is needed"},
        {"{\"models\": [{\"name\": \"x\"}]}", "models[0].path: is needed"},
        {"{\"models\": [{\"name\": \"a b\", \"path\": \"x\"}]}", "models[0].name: must be a text of 1 to 63 letters"},
        {"{\"models\": [{\"name\": null, \"path\": \"x\"}]}", "models[0].name: must be a text"},
        {"{\"models\": [{\"name\": \"a\", \"path\": \"x\", \"vae\": 1}]}",
         "models[0].vae: unknown key; known: name, path"},
        {"{\"models\": [{\"name\": \"a\", \"path\": \"x\"}, {\"name\": \"a\", \"path\": \"y\"}]}",
         "models[1].name: \"a\" is there twice"},
        {"{\"models\": [{\"name\": \"a\", \"path\": \"x\"}], \"tls\": {\"key\": \"k\"}}",
         "tls.certificate: is needed with tls.key"},
        {"{}", "models: at least one is needed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].file, NULL, cases[i].message);
}

static void bad_overrides(void **state) {
    (void)state;
    static const struct {
        const char *override, *message;
    } cases[] = {
        {"x", "\"x\": must be KEY=VALUE"},
        {"=x", "must be KEY=VALUE"},
        {"x=1", "x: unknown key; known: listen"},
        {"queue=1", "queue: unknown key"},
        {"worker.rows_max=", "worker.rows_max: must be an integer from 2 to 64, is \"\""},
        {"worker.rows_max=8x", "worker.rows_max: must be an integer"},
        {"access_log=yes", "access_log: must be true or false, is \"yes\""},
        {"models=x", "--model NAME=DIR"},
        {"models.=x", "--model NAME=DIR: must be a text"},
        {"models.x=", "models.x: must be a path"},
        {"listen=8080", "listen: must be ADDRESS:PORT"},
        {"listen=127.0.0.1", "listen: must be ADDRESS:PORT"},
        {"listen=127.0.0.1:", "listen: must be"},
        {"listen=127.0.0.1:65536", "listen: must be"},
        {"listen=127.0.0.1:-1", "listen: must be"},
        {"listen=127.0.0.1:80x", "listen: must be"},
        {"listen=::1:80", "listen: must be"},
        {"listen=[127.0.0.1]:80", "listen: must be"},
        {"listen=[]:80", "listen: must be"},
        {"listen=example.org:80", "listen: must be"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(NULL, (const char *[]){MODEL, cases[i].override, NULL}, cases[i].message);
}

static void other_addresses_need_keys(void **state) {
    (void)state;
    struct config c;
    assert_refused(NULL, (const char *[]){MODEL, "listen=0.0.0.0:80", NULL}, "needs api_keys");
    assert_refused(NULL, (const char *[]){MODEL, "listen=[::]:80", NULL}, "needs api_keys");
    assert_refused(NULL, (const char *[]){MODEL, "listen=192.168.0.1:80", NULL}, "needs api_keys");
    load_good(NULL, (const char *[]){MODEL, "listen=0.0.0.0:80", "api_keys=k", NULL}, &c);
    config_done(&c);
    load_good(NULL, (const char *[]){MODEL, "listen=localhost:80", NULL}, &c);
    assert_string_equal(c.listen_host, "127.0.0.1");
    config_done(&c);
    assert_true(config_is_loopback("127.8.9.1"));
    assert_true(config_is_loopback("::1"));
    assert_false(config_is_loopback("128.0.0.1"));
    assert_false(config_is_loopback("::"));
    assert_false(config_is_loopback("::ffff:10.0.0.1"));
}

static void the_environment_names_the_keys(void **state) {
    (void)state;
    struct config c;
    setenv("ASDM_API_KEYS_FILE", "/secret", 1);
    load_good("{\"api_keys\": \"/file\", \"models\": [{\"name\": \"m\", \"path\": \"/m\"}]}", NULL, &c);
    assert_string_equal(c.api_keys, "/secret");
    config_done(&c);
    load_good(NULL, (const char *[]){MODEL, "api_keys=/given", NULL}, &c);
    assert_string_equal(c.api_keys, "/given");
    config_done(&c);
    setenv("ASDM_API_KEYS_FILE", "", 1);
    assert_refused(NULL, (const char *[]){MODEL, NULL}, "ASDM_API_KEYS_FILE: must be a path");
    unsetenv("ASDM_API_KEYS_FILE");
}

static void at_most_sixteen_models(void **state) {
    (void)state;
    char texts[17][32];
    const char *overrides[18] = {0};
    struct config c;
    for (int i = 0; i < 17; i++) {
        snprintf(texts[i], sizeof texts[i], "models.m%d=/m", i);
        overrides[i] = texts[i];
    }
    assert_refused(NULL, overrides, "models: more than 16");
    overrides[16] = NULL;
    load_good(NULL, overrides, &c);
    assert_int_equal(c.model_count, 16);
    config_done(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_as_the_header_says),
        cmocka_unit_test(a_file_and_overrides_over_it),
        cmocka_unit_test(the_shipped_file_has_the_defaults),
        cmocka_unit_test(bad_files_name_the_key_and_what_is_allowed),
        cmocka_unit_test(bad_overrides),
        cmocka_unit_test(other_addresses_need_keys),
        cmocka_unit_test(the_environment_names_the_keys),
        cmocka_unit_test(at_most_sixteen_models),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
