/* The page at "/": draws pictures through native jobs (/v1/jobs) and shows those of this session.
 * sessionStorage holds the API key, the ids of the jobs and what the form says, so that a reload loses nothing. */

const OVERVIEW_MS = 2000;
const RECONNECT_MS = 1000;
const RECONNECTS_MAX = 30;
const ANNOUNCE_MS = 5000; /* between two spoken reports of progress */
const JOBS_MAX = 50;      /* of the session that are kept */
const PREVIEWS = 6;
const SIDE_MAX = 16384; /* px of a picture to start from: what canvases can be */

const NUMBERS = ["width", "height", "steps", "guidance_scale", "seed", "count"];
const KEPT = ["prompt", "negative_prompt", "model", ...NUMBERS, "sampler", "schedule", "strength"];

const element = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/* ---- sessionStorage; a browser may refuse it, then nothing is kept */

function stored(name, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem("asdm." + name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function store(name, value) {
  try {
    sessionStorage.setItem("asdm." + name, JSON.stringify(value));
  } catch {
    /* full or refused */
  }
}

/* ---- the server */

/* What went wrong, as the server put it; status 0: it was not reached. */
class Problem extends Error {
  constructor(message, status = 0, field = null) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

async function refusal(answer) {
  try {
    const { error } = await answer.json();
    return new Problem(error.message, answer.status, error.field);
  } catch {
    return new Problem(`The server answered ${answer.status}.`, answer.status);
  }
}

/* A good answer, or a Problem is thrown. */
async function ask(path, method = "GET", body = undefined) {
  const headers = {};
  const key = stored("key", "");
  if (key) headers.Authorization = "Bearer " + key;
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    /* Without "omit" a browser would ask for a user and password of its own on 401. */
    answer = await fetch(path, { method, headers, credentials: "omit", body: body && JSON.stringify(body) });
  } catch {
    throw new Problem("The server does not answer.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) askKey();
  throw await refusal(answer);
}

const askJson = async (...request) => (await ask(...request)).json();

/* Server-sent events, until the server closes. EventSource could not send the key. */
async function* readEvents(path) {
  const reader = (await ask(path)).body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const lines = text.slice(0, end).split("\n");
        const find = (name) => lines.find((line) => line.startsWith(name + ": "))?.slice(name.length + 2);
        text = text.slice(end + 2);
        if (find("event")) yield { name: find("event"), data: JSON.parse(find("data")) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/* ---- the key */

function askKey() {
  const form = element("key-form");
  element("key-error").textContent = stored("key", "") ? "The server does not accept this key." : "";
  if (!form.hidden) return;
  form.hidden = false;
  element("key").focus();
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  store("key", element("key").value.trim());
  element("key").value = "";
  element("key-form").hidden = true;
  element("prompt").focus();
  showProblem("");
  refreshOverview();
});

/* ---- overview: what the server offers and how busy it is */

let overview = null;
let overviewTimer = 0;

function formatSeconds(seconds) {
  if (!seconds) return "–";
  return seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(2)} s`;
}

function fillSelect(select, rows) {
  const wanted = select.value || stored("form", {})[select.id];
  select.replaceChildren(...rows.map(({ name, label }) => new Option(label, name)));
  if (rows.some(({ name }) => name === wanted)) select.value = wanted;
}

const currentModel = () => overview.models.find(({ name }) => name === element("model").value) ?? overview.models[0];

/* Size and sampler as the chosen model has them. */
function applyModel() {
  const model = currentModel();
  element("width").value = model.default_width;
  element("height").value = model.default_height;
  element("sampler").value = model.default_sampler;
  shapeFrame();
}

function showOffer() {
  const kept = stored("form", null);
  fillSelect(element("model"), overview.models.map(({ name }) => ({ name, label: name })));
  fillSelect(element("sampler"), overview.samplers);
  fillSelect(element("schedule"), overview.schedules);
  element("model").closest(".field").hidden = overview.models.length < 2;
  if (!kept) applyModel();
}

async function refreshOverview() {
  clearTimeout(overviewTimer);
  if (document.hidden) return;
  try {
    const first = !overview;
    overview = await askJson("/v1/overview");
    if (first) {
      showOffer();
      restoreSession();
    }
    element("queued").textContent = overview.queued;
    element("active").textContent = overview.active_pictures;
    element("latency").textContent = formatSeconds(overview.step_seconds_mean);
    element("offline").hidden = true;
    const loading = !currentModel().ready;
    if (!run && loading) showStatus("The model is loading.");
    else if (!run && element("status").textContent === "The model is loading.") showStatus("");
  } catch (problem) {
    if (problem.status === 401) return; /* goes on when there is a key */
    element("offline").hidden = problem.status !== 0;
  }
  clearTimeout(overviewTimer);
  overviewTimer = setTimeout(refreshOverview, OVERVIEW_MS);
}

document.addEventListener("visibilitychange", refreshOverview);
element("model").addEventListener("change", applyModel);

/* ---- the form */

const form = element("form");

function readForm() {
  const body = { kind: init ? "i2i" : "t2i", prompt: element("prompt").value, previews: PREVIEWS };
  for (const name of ["negative_prompt", "sampler", "schedule"])
    if (element(name).value) body[name] = element(name).value;
  if (overview?.models.length > 1) body.model = element("model").value;
  for (const name of NUMBERS) {
    const field = element(name);
    if (field.validity.badInput) throw new Problem("must be a number", 422, name);
    if (field.value !== "") body[name] = Number(field.value);
  }
  if (init) body.strength = Number(element("strength").value);
  return body;
}

function keepForm() {
  store("form", Object.fromEntries(KEPT.map((name) => [name, element(name).value])));
}

function fillForm(values) {
  for (const name of KEPT) if (values[name] !== undefined) element(name).value = values[name];
  showStrength();
  shapeFrame();
}

function clearErrors() {
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  for (const text of form.querySelectorAll(".error")) text.textContent = "";
  showProblem("");
}

function showProblem(text) {
  element("problem").textContent = text;
}

/* Beside its field where it has one that is on the page. */
function showError(problem) {
  const wrapper = problem.field && form.querySelector(`[data-field="${CSS.escape(problem.field)}"]:not([hidden])`);
  if (!wrapper) return showProblem(problem.message);
  const field = element(problem.field);
  const start = problem.field + ": ";
  element(problem.field + "-error").textContent = problem.message.startsWith(start)
    ? problem.message.slice(start.length)
    : problem.message;
  field.setAttribute("aria-invalid", "true");
  field.focus();
  field.scrollIntoView({ block: "nearest" }); /* focus() does not where it was before */
  announce(`${field.labels[0]?.firstChild.textContent.trim()}: ${element(problem.field + "-error").textContent}`);
}

function showStrength() {
  element("strength-value").textContent = Number(element("strength").value).toFixed(2);
}

/* The frame has the shape of the picture to come, so that nothing jumps. */
function shapeFrame(width = Number(element("width").value), height = Number(element("height").value)) {
  if (width > 0 && height > 0) element("frame").style.aspectRatio = `${width} / ${height}`;
}

element("strength").addEventListener("input", showStrength);
form.addEventListener("change", keepForm);
for (const name of ["width", "height"])
  element(name).addEventListener("change", () => element("current").hidden && !run && shapeFrame());
element("seed-again").addEventListener("click", () => {
  element("seed").value = element("last-seed-value").textContent;
  keepForm();
  element("seed").focus();
});

/* ---- the picture to start from */

let init = null; /* ImageBitmap */

function drawPng(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  canvas.width = width;
  canvas.height = height;
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; /* behind transparent places */
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, (width - bitmap.width * scale) / 2, (height - bitmap.height * scale) / 2,
    bitmap.width * scale, bitmap.height * scale);
  return canvas;
}

/* base64 of a PNG of the size that is asked for, filled and cropped in the middle. A size that is none goes on with any
 * picture: the server refuses it. */
function encodeInit(body) {
  const { width = currentModel().default_width, height = currentModel().default_height } = body;
  const good = [width, height].every((side) => Number.isInteger(side) && side > 0);
  for (const name of ["width", "height"])
    if (body[name] > SIDE_MAX) throw new Problem(`must be at most ${SIDE_MAX} with a picture to start from`, 422, name);
  return drawPng(init, good ? width : 8, good ? height : 8).toDataURL("image/png").split(",")[1];
}

function showInit(bitmap) {
  init?.close();
  init = bitmap;
  if (bitmap) element("init-thumbnail").src = drawPng(bitmap, 144, 144).toDataURL("image/png");
  else element("init_image").value = "";
  element("init-thumbnail").hidden = element("init-remove").hidden = !bitmap;
  element("strength").closest(".field").hidden = !bitmap;
  clearErrors();
}

async function setInit(blob) {
  try {
    showInit(await createImageBitmap(blob));
    return true;
  } catch {
    showInit(null);
    showError(new Problem("is not a picture that this browser can read", 422, "init_image"));
    return false;
  }
}

async function startFrom(picture) {
  element("viewer").close();
  if (!(await setInit(picture.blob))) return;
  element("init_image").value = "";
  element("strength").focus();
  announce("The picture is set as the one to start from.");
}

element("init_image").addEventListener("change", ({ target }) => target.files[0] && setInit(target.files[0]));
element("init-remove").addEventListener("click", () => {
  showInit(null);
  element("init_image").focus();
});

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
/* Beside the drop place a file would replace the page. */
for (const type of ["dragover", "drop"])
  document.addEventListener(type, (event) => hasFiles(event) && event.preventDefault());
element("drop").addEventListener("dragover", (event) => hasFiles(event) && element("drop").classList.add("over"));
for (const type of ["dragleave", "drop"])
  element("drop").addEventListener(type, () => element("drop").classList.remove("over"));
element("drop").addEventListener("drop", ({ dataTransfer }) => dataTransfer.files[0] && setInit(dataTransfer.files[0]));

/* ---- a job: one at a time */

let run = null; /* { id, cancelled } of the job that is under way */
let announced = 0;

function announce(text) {
  element("announcement").textContent = text;
  announced = Date.now();
}

function showStatus(text) {
  element("status").textContent = text;
}

function showImage(source, text) {
  const image = element("current");
  image.src = source;
  image.alt = text;
  image.hidden = false;
  element("empty").hidden = true;
}

function showProgress({ step, steps, pictures_done: done, queue_position: position }, pictures) {
  const waiting = step === 0 && position !== null;
  const ahead = position === 1 ? "1 picture ahead" : `${position} pictures ahead`;
  let text = waiting ? `In the queue: ${position ? ahead : "next"}` : `Step ${step} of ${steps}`;
  if (pictures > 1) text += `, ${done} of ${pictures} pictures done`;
  element("progress").max = steps || 1;
  element("progress").value = step;
  showStatus(text);
  if (Date.now() - announced > ANNOUNCE_MS) announce(text);
}

/* Watches the job until it ends, over broken connections too; returns it as it then is. */
async function follow(job) {
  for (let failures = 0; failures < RECONNECTS_MAX; failures++) {
    try {
      for await (const { name, data } of readEvents(`/v1/jobs/${job.id}/events`)) {
        failures = 0;
        if (name === "progress") showProgress(data, job.request.count);
        else if (name === "preview") showImage("data:image/png;base64," + data.png, "Preview");
        else if (name === "picture") await addPicture(job, data);
        else if (name === "done") return data;
      }
    } catch (problem) {
      if (problem.status) throw problem;
    }
    await pause(RECONNECT_MS);
  }
  throw new Problem("The connection to the server is lost. Reload the page to look for the pictures.");
}

function showUsedSeed(seed) {
  element("last-seed-value").textContent = seed;
  element("last-seed").hidden = false;
}

function showEnd(job) {
  if (job.status === "succeeded") {
    const pictures = job.images.length === 1 ? "Done" : `${job.images.length} pictures done`;
    showStatus(`${pictures} in ${formatSeconds(job.timing.total_seconds)}, seed ${job.request.seed}`);
  } else {
    showStatus(job.status === "cancelled" ? "Cancelled" : "Failed");
    if (job.status === "failed") showError(new Problem(job.error.message, 500, job.error.field));
  }
  announce(element("status").textContent);
}

function setBusy(busy) {
  element("generate").setAttribute("aria-disabled", busy);
  if (!busy && document.activeElement === element("cancel")) element("generate").focus();
  element("cancel").disabled = !busy;
  element("progress").hidden = !busy;
}

function clearImage() {
  element("current").hidden = true;
  element("empty").hidden = true;
}

/* From `begin`, which returns the job as the server has it, to its end. */
async function runJob(begin) {
  run = { id: null, cancelled: false };
  setBusy(true);
  try {
    const job = await begin();
    run.id = job.id;
    rememberJob(job.id);
    shapeFrame(job.request.width, job.request.height);
    showUsedSeed(job.request.seed);
    showProgress({ ...job.progress, queue_position: job.queue_position }, job.request.count);
    if (run.cancelled) await ask(`/v1/jobs/${job.id}`, "DELETE");
    const ended = await follow(job);
    for (const image of ended.images) await addPicture(ended, image);
    showEnd(ended);
  } catch (problem) {
    showStatus("");
    showError(problem);
  } finally {
    run = null;
    setBusy(false);
    refreshOverview();
  }
}

async function generate() {
  if (run) return;
  clearErrors();
  keepForm();
  await runJob(async () => {
    const body = readForm();
    if (init) body.init_image = encodeInit(body);
    showStatus("Sending");
    element("progress").removeAttribute("value");
    const job = await askJson("/v1/jobs", "POST", body);
    clearImage();
    element("stage").scrollIntoView({ block: "nearest" });
    return job;
  });
  element("empty").hidden = !element("current").hidden;
}

async function cancel() {
  if (!run || run.cancelled) return;
  run.cancelled = true;
  showStatus("Cancelling");
  try {
    if (run.id) await ask(`/v1/jobs/${run.id}`, "DELETE");
  } catch (problem) {
    if (run) run.cancelled = false;
    showError(problem);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
element("cancel").addEventListener("click", cancel);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || element("viewer").open) return;
  event.preventDefault();
  generate();
});

/* ---- the gallery */

const pictures = new Map(); /* "job/index" -> { job, index, seed, blob, address, name, card } */
let opened = null;

function rememberJob(id) {
  store("jobs", [id, ...stored("jobs", []).filter((other) => other !== id)].slice(0, JOBS_MAX));
}

function forgetJob(id) {
  store("jobs", stored("jobs", []).filter((other) => other !== id));
}

function makeCard(picture) {
  const card = element("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => card.querySelector(selector);
  const { prompt } = picture.job.request;
  find("img").src = picture.address;
  find("img").alt = prompt;
  find(".enlarge").setAttribute("aria-label", `Enlarge: ${prompt}, seed ${picture.seed}`);
  find(".enlarge").addEventListener("click", () => openViewer(picture));
  find(".card-prompt").textContent = prompt;
  find(".card-prompt").title = prompt;
  find(".card-seed").textContent = picture.seed;
  find(".download").href = picture.address;
  find(".download").download = picture.name;
  find(".download").setAttribute("aria-label", `Download ${picture.name}`);
  find(".again").setAttribute("aria-label", `Image to image from this picture, seed ${picture.seed}`);
  find(".again").addEventListener("click", () => startFrom(picture));
  return card;
}

/* Newest first; a job's pictures by their numbers, whichever was finished or fetched before the other. */
function placeCard({ job, index, card }, last) {
  const own = [...pictures.values()].filter((other) => other.job.id === job.id).sort((a, b) => b.index - a.index);
  const below = own.find((other) => other.index < index);
  if (below) below.card.before(card);
  else if (own.length) own.at(-1).card.after(card);
  else element("pictures")[last ? "append" : "prepend"](card);
}

/* `image` is { index, seed, url }; `last`: of a job that is older than all others. */
async function addPicture(job, image, last = false) {
  const key = `${job.id}/${image.index}`;
  if (pictures.has(key)) return;
  const blob = await (await ask(image.url)).blob();
  if (pictures.has(key)) return;
  const { index, seed } = image;
  const picture = { job, index, seed, blob, address: URL.createObjectURL(blob), name: `${seed}.png` };
  picture.card = makeCard(picture);
  placeCard(picture, last);
  pictures.set(key, picture);
  element("gallery").hidden = false;
  if (!last) showImage(picture.address, job.request.prompt);
}

function showDetails(rows) {
  element("viewer-details").replaceChildren(
    ...rows.flatMap(([name, value]) => {
      const [term, description] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      description.textContent = value;
      return [term, description];
    }),
  );
}

function openViewer(picture) {
  const { request, model } = picture.job;
  const label = (list, name) => overview?.[list].find((row) => row.name === name)?.label ?? name;
  opened = picture;
  element("viewer-image").src = picture.address;
  element("viewer-image").alt = request.prompt;
  element("viewer-prompt").textContent = request.prompt;
  const rows = [["Seed", picture.seed], ["Size", `${request.width} × ${request.height}`], ["Steps", request.steps],
    ["Guidance", request.guidance_scale], ["Sampler", label("samplers", request.sampler)],
    ["Schedule", label("schedules", request.schedule)], ["Model", model]];
  if (request.strength !== undefined) rows.push(["Strength", request.strength]);
  if (request.negative_prompt) rows.push(["Negative", request.negative_prompt]);
  showDetails(rows);
  element("viewer-download").href = picture.address;
  element("viewer-download").download = picture.name;
  element("viewer").showModal();
  element("viewer-close").focus();
  element("viewer").scrollTop = 0; /* the picture is to be seen first */
}

function useSettings({ job, seed }) {
  element("viewer").close();
  fillForm({ ...job.request, model: job.model, seed, count: 1 });
  clearErrors();
  keepForm();
  element("prompt").focus();
}

function clearGallery() {
  for (const { address, card } of pictures.values()) {
    if (element("current").src === address) clearImage();
    URL.revokeObjectURL(address);
    card.remove();
  }
  pictures.clear();
  store("jobs", run?.id ? [run.id] : []);
  element("gallery").hidden = true;
  element("empty").hidden = !element("current").hidden;
  element("prompt").focus();
}

element("viewer-close").addEventListener("click", () => element("viewer").close());
element("viewer-settings").addEventListener("click", () => useSettings(opened));
element("viewer-again").addEventListener("click", () => startFrom(opened));
element("viewer").addEventListener("click", (event) => event.target === element("viewer") && element("viewer").close());
element("gallery-clear").addEventListener("click", clearGallery);

/* ---- start: the session as it was before a reload */

async function restoreJob(id) {
  try {
    const job = await askJson(`/v1/jobs/${id}`);
    if (!run && (job.status === "queued" || job.status === "running")) runJob(() => job);
    for (const image of job.images.reverse()) await addPicture(job, image, true);
  } catch (problem) {
    if (problem.status === 404 || problem.status === 410) forgetJob(id);
  }
}

async function restoreSession() {
  for (const id of stored("jobs", [])) await restoreJob(id);
}

fillForm(stored("form", {}));
refreshOverview();
