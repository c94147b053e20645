// A table of rows and the form that adds and edits them, on top of the JSON API.
// Whatever comes from the API becomes text, never markup.

const PAGE = 100;
const $ = (id) => document.getElementById(id);
const { api, groups: groupsApi, texts: written } = $("rows").dataset;
const texts = JSON.parse(written);
const form = $("form");
const fields = [...form.querySelectorAll("[name]")];
const columns = [...document.querySelectorAll("th[data-field]")].map((cell) => ({
  name: cell.dataset.field,
  kind: cell.dataset.kind,
  title: cell.textContent,
}));
const groupPicker = form.querySelector("select");
const groupNames = new Map();
let edited = null; // {id, etag} of the row that is in the form
let shown = 0;

const say = (text, values = {}) =>
  text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));

// --- the API ---------------------------------------------------------------------------------

class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? String(status));
    this.status = status;
    this.title = document.title ?? "";
    this.errors = document.errors ?? [];
  }
}

async function ask(method, url, { body, ifMatch } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-CSRF-Token"] = document.querySelector("meta[name=csrf-token]").content;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (ifMatch) headers["If-Match"] = ifMatch;
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Problem(0, {});
  }
  const isJson = answer.headers.get("Content-Type")?.includes("json");
  const document_ = isJson ? await answer.json().catch(() => ({})) : {};
  if (!answer.ok) {
    $("login").hidden = answer.status !== 401;
    throw new Problem(answer.status, document_);
  }
  return { body: document_, etag: answer.headers.get("ETag") };
}

function inWords(problem) {
  const known = { 0: "offline", 403: "expired", 404: "gone", 409: "in_use", 412: "stale" };
  const busy = [429, 502, 503, 504];
  if (busy.includes(problem.status)) return texts.busy;
  if (problem.status === 401) return $("login").querySelector("label").textContent.trim();
  const name = known[problem.status];
  return name ? texts[name] : say(texts.unknown, { status: problem.status });
}

// --- the table -------------------------------------------------------------------------------

function cell(row, column) {
  const made = document.createElement("td");
  made.dataset.label = column.title;
  made.dataset.kind = column.kind;
  const value = row[column.name];
  made.textContent =
    column.kind === "group" ? (groupNames.get(value) ?? String(value)) : (value ?? "");
  return made;
}

function line(row) {
  const made = document.createElement("tr");
  made.dataset.id = row.id;
  made.append(...columns.map((column) => cell(row, column)));
  const last = document.createElement("td");
  last.className = "buttons";
  last.append($("buttons").content.cloneNode(true));
  const [edit, remove] = last.querySelectorAll("button");
  const named = row.name ?? row.file_name ?? "";
  for (const button of [edit, remove]) {
    button.setAttribute("aria-label", `${button.dataset.label} ${row.id} ${named}`.trim());
  }
  edit.addEventListener("click", () => startEditing(row.id));
  remove.addEventListener("click", () => askToDelete(row.id, named));
  made.append(last);
  return made;
}

async function load({ more = false } = {}) {
  $("table").setAttribute("aria-busy", "true");
  $("refresh").disabled = true;
  try {
    if (groupPicker && !more) await loadGroups();
    const limit = more ? PAGE : Math.min(Math.max(shown, PAGE), 500);
    const offset = more ? shown : 0;
    const { body } = await ask("GET", `${api}?limit=${limit}&offset=${offset}`);
    const lines = body.items.map(line);
    if (more) $("body").append(...lines);
    else $("body").replaceChildren(...lines);
    shown = $("body").rows.length;
    $("empty").textContent = texts.empty;
    $("empty").hidden = shown > 0;
    $("table").hidden = shown === 0;
    $("rest").hidden = shown >= body.total;
    $("count").textContent = shown ? say(texts.shown, { shown, total: body.total }) : "";
    tell($("table-error"), "");
    mark();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (!shown) $("empty").hidden = true;
    tell($("table-error"), inWords(problem));
  } finally {
    $("table").setAttribute("aria-busy", "false");
    $("refresh").disabled = false;
  }
}

async function loadGroups() {
  const { body } = await ask("GET", groupsApi);
  const chosen = groupPicker.value;
  groupNames.clear();
  const options = body.items.map((group) => {
    const name = group.name ? `${group.id} · ${group.name}` : String(group.id);
    groupNames.set(group.id, name);
    return new Option(name, group.id);
  });
  groupPicker.replaceChildren(groupPicker.options[0], ...options);
  groupPicker.value = chosen;
}

const buttonOf = (id) => $("body").querySelector(`tr[data-id="${id}"] .edit`);

function mark() {
  for (const row of $("body").rows) {
    row.classList.toggle("table-active", edited !== null && Number(row.dataset.id) === edited.id);
  }
}

// --- the form --------------------------------------------------------------------------------

function tell(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

function complain(field, text) {
  field.classList.toggle("is-invalid", Boolean(text));
  field.setAttribute("aria-invalid", String(Boolean(text)));
  $(`${field.name}-error`).textContent = text;
}

function fault(field) {
  if (field.disabled) return "";
  const { valueMissing, badInput } = field.validity;
  if (valueMissing && !badInput) return texts.needed;
  if (field.type === "number" && !field.validity.valid) return say(texts.whole, { max: field.max });
  const most = Number(field.dataset.most);
  // Characters as the service counts them, not halves of them.
  return most && [...field.value].length > most ? say(texts.long, { max: most }) : "";
}

function check() {
  for (const field of fields) complain(field, fault(field));
  const first = fields.find((field) => field.classList.contains("is-invalid"));
  first?.focus();
  return !first;
}

function values() {
  const sent = {};
  for (const field of fields) {
    if (field.disabled) continue;
    const isNumber = field.type === "number" || field === groupPicker;
    sent[field.name] = isNumber ? Number(field.value) : field.value || null;
  }
  return sent;
}

function show(problem) {
  const places = new Map(problem.errors.map((error) => [error.pointer.slice(1), error.detail]));
  if (problem.title === "Id taken") places.set("id", texts.taken);
  if (problem.title === "No such group") places.set("group_id", texts.no_group);
  const wrong = fields.filter((field) => places.has(field.name));
  for (const field of wrong) complain(field, places.get(field.name));
  if (wrong.length) wrong[0].focus();
  else tell($("form-error"), inWords(problem));
}

function clear() {
  edited = null;
  form.reset();
  for (const field of fields) complain(field, "");
  tell($("form-error"), "");
  $("id").disabled = false;
  dress("new");
}

function dress(way) {
  $("form-title").textContent =
    way === "edit" ? `${$("form-title").dataset.edit} ${edited.id}` : $("form-title").dataset.new;
  $("save").textContent = $("save").dataset[way];
  $("cancel").hidden = way !== "edit";
  mark();
}

async function startEditing(id) {
  clear();
  try {
    const { body, etag } = await ask("GET", api + id);
    edited = { id, etag };
    for (const field of fields) field.value = body[field.name] ?? "";
    $("id").disabled = true;
    dress("edit");
    const first = fields.find((field) => !field.disabled);
    form.scrollIntoView({ block: "nearest" });
    first.focus();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    tell($("table-error"), inWords(problem));
  }
}

function stopEditing() {
  const { id } = edited;
  clear();
  buttonOf(id)?.focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  tell($("form-error"), "");
  $("said").textContent = "";
  if (!check()) return;
  $("save").disabled = true;
  try {
    if (edited) await ask("PUT", api + edited.id, { body: values(), ifMatch: edited.etag });
    else await ask("POST", api, { body: values() });
    const id = edited?.id;
    clear();
    await load();
    $("said").textContent = id ? texts.changed : texts.created;
    if (id) buttonOf(id)?.focus();
    else $("id").focus();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    show(problem);
  } finally {
    $("save").disabled = false;
  }
});
form.addEventListener("input", (event) => complain(event.target, ""));
form.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && edited) stopEditing();
});
$("cancel").addEventListener("click", stopEditing);

// --- deleting --------------------------------------------------------------------------------

const sure = $("sure");

function askToDelete(id, named) {
  sure.dataset.id = id;
  $("question").textContent = say(texts.ask, { id });
  $("named").textContent = named;
  tell($("delete-error"), "");
  sure.showModal();
}

$("delete").addEventListener("click", async () => {
  const id = Number(sure.dataset.id);
  $("delete").disabled = true;
  try {
    await ask("DELETE", api + id);
    sure.close();
    if (edited?.id === id) clear();
    await load();
    $("said").textContent = texts.deleted;
    $("refresh").focus();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    tell($("delete-error"), inWords(problem));
  } finally {
    $("delete").disabled = false;
  }
});

// --- the rest --------------------------------------------------------------------------------

$("refresh").addEventListener("click", () => {
  $("said").textContent = "";
  load();
});
$("more").addEventListener("click", () => load({ more: true }));
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("login").hidden = true;
  load();
});

load();
