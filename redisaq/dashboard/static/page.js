// Keeps a page that the server has rendered up to date, and adds the keyboard. Text reaches the page as text nodes and attributes only; nothing is
// styled by attribute; a tick changes what stands there and never rebuilds what somebody has scrolled, selected or focused.
"use strict";

const $ = (id) => document.getElementById(id);
const page = () => $("page");
const root = () => page().dataset.root;

/* -- changes in place ------------------------------------------------------------------------------------------------------------- */

let places = new Map(); // of each value: what sets it

function scan() {
  places = new Map();
  const add = (name, set) => { const all = places.get(name); if (all) all.push(set); else places.set(name, [set]); };
  for (const node of page().querySelectorAll("[data-v]")) add(node.dataset.v, (text) => { if (node.textContent !== text) node.textContent = text; });
  for (const node of page().querySelectorAll("[data-a]"))
    for (const pair of node.dataset.a.split(" ")) { const [attribute, name] = pair.split(":"); add(name, (text) => node.setAttribute(attribute, text)); }
}

function apply(values) { for (const [name, text] of Object.entries(values)) for (const set of places.get(name) || []) set(text); }

/** Make `node` like `wanted`, reusing what is there. Children with the same data-key are the same. */
function morph(node, wanted) {
  if (node.nodeType !== wanted.nodeType || node.nodeName !== wanted.nodeName || node.id !== wanted.id) { node.replaceWith(document.importNode(wanted, true)); return; }
  if (node.nodeType === Node.TEXT_NODE) { if (node.data !== wanted.data) node.data = wanted.data; return; }
  if (node.nodeType !== Node.ELEMENT_NODE) return;
  if (node.hasAttribute("data-keep")) return;
  for (const { name } of [...node.attributes]) if (!wanted.hasAttribute(name) && !(name === "open" || name === "data-mine")) node.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  const keyed = new Map();
  for (const child of node.children) if (child.dataset.key !== undefined) keyed.set(child.dataset.key, child);
  let here = node.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = child.nodeType === Node.ELEMENT_NODE ? child.dataset.key : undefined;
    const same = key === undefined ? here : keyed.get(key);
    if (same && key !== undefined && same !== here) node.insertBefore(same, here);
    if (!same || (key === undefined && same.nodeType === Node.ELEMENT_NODE && same.dataset.key !== undefined)) { node.insertBefore(document.importNode(child, true), here); continue; }
    here = same.nextSibling;
    morph(same, child);
  }
  while (here) { const next = here.nextSibling; here.remove(); here = next; }
}

/* -- news from the server ------------------------------------------------------------------------------------------------------------ */

let stream = null, frozen = false, last = Date.now(), fetching = false, polling = 0;

async function refresh() {
  if (fetching) return;
  fetching = true;
  try {
    const answer = await fetch(location.pathname + location.search, { headers: { accept: "text/html" } });
    const wanted = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (wanted.getElementById("page")) { morph(page(), wanted.getElementById("page")); document.title = wanted.title; last = Date.now(); }
    after();
  } catch { /* the stream is opened again, and says so */ } finally { fetching = false; }
}

function listen() {
  stop();
  if (frozen || document.hidden || !page().dataset.stream) return;
  const address = page().dataset.stream, mark = address.includes("?") ? "&" : "?";
  stream = new EventSource(`${address}${mark}shape=${page().dataset.shape}`);
  const heard = () => { last = Date.now(); away(false); };
  for (const kind of ["snapshot", "delta"]) stream.addEventListener(kind, (event) => { heard(); apply(JSON.parse(event.data)); });
  stream.addEventListener("jobs", (event) => { heard(); JSON.parse(event.data).forEach(showJob); });
  stream.addEventListener("refresh", async () => { heard(); stop(); await refresh(); setTimeout(listen, 250); });
  stream.onopen = heard;
  stream.onerror = () => {
    away(Date.now() - last > 3000);
    if (stream && stream.readyState === EventSource.CLOSED) { stop(); polling = setTimeout(async () => { await refresh(); listen(); }, 10000); } // too many streams, or the token is gone
  };
}
function stop() { clearTimeout(polling); if (stream) stream.close(); stream = null; }

function away(gone) {
  const text = frozen ? "Frozen" : gone ? `From ${new Date(last).toISOString().slice(11, 19)}` : page().classList.contains("stale") ? "Away" : "Live";
  if ($("live-text").textContent !== text) $("live-text").textContent = text;
  $("live").setAttribute("aria-pressed", String(!frozen));
  $("live").classList.toggle("away", gone || page().classList.contains("stale"));
}

document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else { refresh().then(listen); } });

/* -- what a view needs besides -------------------------------------------------------------------------------------------------------------- */

/** Do again what the server does not know of: it was morphed away. */
function after() { scan(); filter(); colour(by); map(); choose(); look(); away(false); }

/** Follow a search for a message, and go where it is found. Leaving the page ends the search. */
function look() {
  const place = $("search");
  if (!place || place.dataset.begun) return;
  place.dataset.begun = "yes";
  const search = new EventSource(place.dataset.search), said = (event) => JSON.parse(event.data);
  search.addEventListener("progress", (event) => { place.textContent = said(event).text; });
  search.addEventListener("found", (event) => { search.close(); location.replace(said(event).href); });
  search.addEventListener("missing", (event) => { search.close(); place.textContent = said(event).text; });
  search.onerror = () => { search.close(); place.textContent = "The search was interrupted, or too many go on at once. Reload the page to search again."; };
}

function filter() {
  const field = $("filter");
  if (!field) return;
  const wanted = field.value.trim();
  for (const body of document.querySelectorAll("tbody[data-name]")) body.hidden = !body.dataset.name.includes(wanted);
}

let drawn = null, spot = null, by = "lag", picked = -1;

/** Thousands of partitions as a map of cells: a byte each says what waits, another who owns it. */
async function map() {
  const canvas = document.querySelector("canvas[data-cells]");
  if (!canvas) { drawn = null; return; }
  const answer = await fetch(canvas.dataset.cells).then((r) => (r.ok ? r.json() : null)).catch(() => null);
  if (!answer) return;
  const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  drawn = { canvas, lag: bytes(answer.lag), owner: bytes(answer.owner), members: answer.members };
  draw();
}
const WIDE = 250, CELL = 6;
function draw() {
  if (!drawn || !drawn.canvas.isConnected) return;
  const { canvas, lag, owner } = drawn, css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const wide = Math.min(WIDE, lag.length);
  canvas.width = wide * CELL; canvas.height = Math.ceil(lag.length / wide) * CELL;
  const paint = canvas.getContext("2d"), parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const low = parts(css("--sunken")), high = parts(css("--accent")), bad = css("--bad"), colours = Array.from({ length: 8 }, (_, i) => css(`--m${i}`)), anybody = owner.some((one) => one);
  const shades = Array.from({ length: 256 }, (_, v) => { const f = Math.min(1, v / 160); return `rgb(${low.map((x, i) => Math.round(x + (high[i] - x) * f)).join(" ")})`; });
  for (let p = 0; p < lag.length; p += 1) {
    const one = owner[p] - 1;
    paint.fillStyle = one < 0 && anybody ? bad : by === "lag" || one < 0 ? shades[lag[p]] : colours[one % 8];
    paint.globalAlpha = by !== "owner" || one < 0 ? 1 : spot !== null ? (spot === one ? 1 : 0.12) : one % 16 > 7 ? 0.55 : 1;
    paint.fillRect((p % wide) * CELL, Math.floor(p / wide) * CELL, CELL - 1, CELL - 1);
  }
  paint.globalAlpha = 1;
  if (picked >= 0) { paint.strokeStyle = css("--text"); paint.lineWidth = 2; paint.strokeRect((picked % wide) * CELL - 2, Math.floor(picked / wide) * CELL - 2, CELL + 3, CELL + 3); }
}
function colour(what) {
  by = what;
  for (const one of document.querySelectorAll("[data-colour]")) one.setAttribute("aria-pressed", String(one.dataset.colour === by));
  draw();
}
function tell(p) {
  if (!drawn || !(p >= 0 && p < drawn.lag.length)) return;
  const member = drawn.members[drawn.owner[p] - 1], waiting = Math.round(2 ** (drawn.lag[p] / 16) - 1);
  $("cell").textContent = `Partition ${p}: about ${waiting} waiting, ${member ? `owner ${member[0]}, ${member[1]}` : "no owner"}`;
}
document.addEventListener("pointermove", (event) => {
  if (!drawn || event.target !== drawn.canvas) return;
  const box = drawn.canvas.getBoundingClientRect(), wide = Math.min(WIDE, drawn.lag.length);
  tell(Math.floor(((event.clientY - box.top) / box.height) * (drawn.canvas.height / CELL)) * wide + Math.floor(((event.clientX - box.left) / box.width) * wide));
});

/* -- clicks ------------------------------------------------------------------------------------------------------------------------------------- */

function toast(text) { const node = document.createElement("div"); node.textContent = text; $("toasts").append(node); setTimeout(() => node.remove(), 6000); }

function flip() {
  const now = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = now;
  try { localStorage.setItem("redisaq-theme", now); } catch { /* private windows */ }
  draw();
}
function freeze() { frozen = !frozen; away(false); if (frozen) stop(); else refresh().then(listen); }

/** Copy what a button names, or the text before it. Browsers allow it on localhost and over https. */
async function copy(button) {
  try { await navigator.clipboard.writeText(button.dataset.copy || button.previousElementSibling.textContent); toast("Copied."); }
  catch { toast("The browser does not allow it here: select the text instead."); }
}

document.addEventListener("click", (event) => {
  const at = (selector) => event.target.closest(selector);
  if (at("#theme")) flip();
  else if (at("#help")) $("help-dialog").showModal();
  else if (at("#live")) freeze();
  else if (at("[data-open]")) { const dialog = $(at("[data-open]").dataset.open); dialog.showModal(); preview(dialog.querySelector("form")); }
  else if (at("button[data-post]")) send(at("[data-post]").dataset.post, JSON.parse(at("[data-post]").dataset.json));
  else if (at("[data-copy]")) copy(at("[data-copy]"));
  else if (at("[data-stop]")) send(`${root()}/api/jobs/${at("[data-stop]").dataset.stop}/stop`, {});
  else if (at("[data-close]")) at(".progress").remove();
  else if (at("[data-colour]")) colour(at("[data-colour]").dataset.colour);
  else if (at("[data-spot]")) { const one = Number(at("[data-spot]").dataset.spot); spot = spot === one ? null : one; colour("owner"); }
  else if (at("tr[data-href]") && !at("a, button, input")) location.assign(at("tr[data-href]").dataset.href);
});
document.addEventListener("input", (event) => {
  if (event.target.id === "filter") filter();
  if (event.target.id === "go-to") { picked = event.target.value === "" ? -1 : Number(event.target.value); tell(picked); draw(); }
});

/* -- changing ---------------------------------------------------------------------------------------------------------------------------------------- */

const chosen = () => [...document.querySelectorAll("input[name=letter]:checked")].map((box) => box.value);

async function send(address, body) {
  let answer, said = {};
  try {
    answer = await fetch(address, { method: "POST", headers: { "content-type": "application/json", "x-redisaq": "1" }, body: JSON.stringify(body) });
    said = await answer.json();
  } catch { said = { error: "the dashboard does not answer" }; }
  if (said.error) { toast(`Nothing was changed: ${said.error}`); return; }
  if (said.job) showJob(said); else toast(said.text);
  if (said.gone) { location.assign(said.gone === "topic" ? `${root()}/` : page().querySelector(".crumbs a:last-of-type").href); return; }
  for (const box of document.querySelectorAll("input[name=letter]:checked")) box.checked = false;
  choose();
  await refresh();
}

/** Show how far a job is. One that failed or was stopped stays until somebody has closed it. */
function showJob(job) {
  let line = document.querySelector(`#jobs [data-job="${job.job}"]`);
  if (!line) {
    if (told.has(job.job) || job.state === "done") return; // it is over, and nobody here has seen it run
    const [text, bar, button] = ["span", "progress", "button"].map((name) => document.createElement(name));
    line = document.createElement("div"); line.className = "progress"; line.dataset.job = job.job;
    button.className = "btn small"; button.type = "button"; button.textContent = "Stop"; button.dataset.stop = job.job; button.hidden = page().dataset.change === undefined;
    line.append(text, bar, button); $("jobs").append(line);
  }
  const [text, bar, button] = line.children;
  if (text.textContent !== job.text) text.textContent = job.text;
  bar.max = Math.max(1, job.total); bar.value = job.done;
  if (job.state === "running") { if (!stream) setTimeout(() => ask(job), 1000); return; }
  if (told.has(job.job)) return;
  told.add(job.job);
  if (job.state === "done") { line.remove(); toast(job.text); } else { delete button.dataset.stop; button.dataset.close = ""; button.textContent = "Close"; button.hidden = false; line.classList.add("bad"); bar.remove(); }
  refresh();
}
const told = new Set();
/** Ask for a job where no stream tells: the page is frozen, or too many are open. */
async function ask(job) { const said = await fetch(`${root()}/api/jobs/${job.job}`).then((r) => r.json()).catch(() => null); if (said && !said.error) showJob(said); }

/* -- what a change would do ------------------------------------------------------------------------------------------------------------ */

let asked = 0;
/** Show what the change of a dialog would do, as it is filled in. */
async function preview(form) {
  if (!form || !form.dataset.preview) return;
  const mine = (asked += 1), place = form.querySelector(".preview"), words = new URLSearchParams();
  for (const [name, value] of Object.entries(filled(form))) if (value !== "") words.set(name, value);
  if (words.get("to") === "time" && !words.get("at")) { place.replaceChildren("Say a time."); return; }
  const said = await fetch(`${form.dataset.preview}?${words}`).then((r) => r.json()).catch(() => ({ error: "the dashboard does not answer" }));
  if (mine !== asked) return;
  const node = (name, text) => { const one = document.createElement(name); one.textContent = text; return one; }, line = document.createElement("p"), list = document.createElement("ul");
  if (said.error) { place.replaceChildren(node("p", said.error)); return; }
  line.append(node("b", said.head), ". ", said.more);
  for (const [number, text] of said.rows) { const item = document.createElement("li"); item.append(node("span", number), node("span", text)); list.append(item); }
  place.replaceChildren(line, list, ...(said.bars.length ? [bars(said.bars, said.label)] : []));
  form.querySelector("[data-command]").textContent = said.command;
}
function bars(heights, label) {
  const make = (name, values) => { const one = document.createElementNS("http://www.w3.org/2000/svg", name); for (const [key, value] of Object.entries(values)) one.setAttribute(key, value); return one; };
  const picture = make("svg", { viewBox: `0 0 ${heights.length} 100`, preserveAspectRatio: "none", class: "mini", role: "img", "aria-label": label });
  heights.forEach(([above, below], n) => picture.append(make("rect", { class: "b", x: n, width: 0.9, y: 100 - below, height: below }), make("rect", { class: "a", x: n, width: 0.9, y: 100 - below - above, height: above })));
  return picture;
}
document.addEventListener("input", (event) => { const form = event.target.closest("form[data-preview]"); if (form) { const mine = (asked += 1); setTimeout(() => { if (mine === asked) preview(form); }, 250); } });

function choose() {
  const count = chosen().length, button = $("redrive");
  if (button) button.textContent = count ? `Redrive ${count}` : `Redrive all ${Number(button.dataset.count).toLocaleString("en")}`;
  for (const node of document.querySelectorAll("[data-chosen]")) { node.dataset.all = node.dataset.all || node.textContent; node.textContent = count ? String(count) : node.dataset.all; }
}

document.addEventListener("change", (event) => { if (event.target.name === "letter") choose(); });
/** Return what a form says, as a request wants it. */
function filled(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || (field.type === "radio" && !field.checked)) continue;
    if (field.dataset.time) { if (field.value) body[field.name] = new Date(field.value).toISOString(); }
    else body[field.name] = field.type === "checkbox" ? field.checked : field.dataset.number ? Number(field.value) : field.value;
  }
  return body;
}
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.post || (event.submitter && event.submitter.value === "cancel")) return;
  const body = { ...JSON.parse(form.dataset.json), ...filled(form) }, letters = chosen();
  if (form.dataset.letters && letters.length) { delete body.kind; body.letters = letters; }
  send(form.dataset.post, body);
});

/* -- finding ---------------------------------------------------------------------------------------------------------------------------------------- */

let found = [], marked = 0, asking = 0, current = Promise.resolve();

async function suggest() {
  const wanted = $("find-input").value.trim(), list = $("find-list"), mine = (asking += 1);
  const answer = wanted ? await fetch(`${root()}/api/places?q=${encodeURIComponent(wanted)}`).then((r) => r.json()).catch(() => []) : [];
  if (mine !== asking) return;
  found = answer; marked = 0;
  list.hidden = !wanted;
  $("find-input").setAttribute("aria-expanded", String(Boolean(wanted)));
  const item = (text, kind, number) => {
    const li = document.createElement("li"), name = document.createElement("span"), what = document.createElement("span");
    li.setAttribute("role", "option"); li.setAttribute("aria-selected", String(number === marked)); name.textContent = text; what.textContent = kind; what.className = "dim"; li.append(name, what);
    if (number >= 0) li.addEventListener("mousedown", (event) => { event.preventDefault(); location.assign(found[number].href); });
    return li;
  };
  list.replaceChildren(...(found.length ? found.map((one, i) => item(one.name, one.kind, i)) : wanted ? [item("Nothing of that name", "", -1)] : []));
}
document.addEventListener("input", (event) => { if (event.target.id === "find-input") current = suggest(); });
document.addEventListener("focusout", (event) => { if (event.target.id === "find-input") $("find-list").hidden = true; });
document.addEventListener("submit", async (event) => {
  if (event.target.id !== "find") return;
  event.preventDefault();
  await current; // Enter may come before the answer to the last letter
  if (found[marked]) location.assign(found[marked].href);
});

/* -- the keyboard ---------------------------------------------------------------------------------------------------------------------------------------- */

let leader = false;
document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (target.id === "find-input" && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    marked = Math.max(0, Math.min(found.length - 1, marked + (event.key === "ArrowDown" ? 1 : -1)));
    [...$("find-list").children].forEach((li, i) => li.setAttribute("aria-selected", String(i === marked)));
    event.preventDefault(); return;
  }
  if (target.matches("input, select, textarea")) { if (event.key === "Escape") target.blur(); return; }
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches(".sky .col") && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
    const next = event.key === "ArrowRight" ? target.nextElementSibling : target.previousElementSibling;
    if (next) next.focus(); // what is before the first one cannot have it
    event.preventDefault(); return;
  }
  if (leader) { leader = false; const to = { t: "/", d: "/dead", s: "/schedule" }[event.key]; if (to && document.querySelector(`.nav a[href="${root()}${to}"]`)) location.assign(root() + to); return; }
  const rows = [...document.querySelectorAll("tr[data-href], a.err")].filter((row) => row.offsetParent);
  const here = rows.findIndex((row) => row.dataset.mine === "here");
  const move = (by) => { const to = rows[Math.max(0, Math.min(rows.length - 1, here + by))]; for (const row of rows) if (row === to) row.dataset.mine = "here"; else delete row.dataset.mine; if (to) to.scrollIntoView({ block: "nearest" }); };
  const up = () => { const crumbs = document.querySelectorAll(".crumbs a"); location.assign(crumbs.length ? crumbs[crumbs.length - 1].href : `${root()}/`); };
  const keys = {
    "/": () => $("find-input").focus(), f: () => $("filter") && $("filter").focus(), g: () => { leader = true; setTimeout(() => { leader = false; }, 900); },
    j: () => move(1), k: () => move(-1), t: flip, "?": () => $("help-dialog").showModal(), " ": freeze, Escape: up,
    x: () => { const box = here >= 0 && rows[here].querySelector("input[type=checkbox]"); if (box) box.click(); },
    Enter: () => { if (here >= 0) location.assign(rows[here].dataset.href || rows[here].href); },
  };
  if (keys[event.key] && !((event.key === " " || event.key === "Enter") && target.closest("button, a, summary"))) { keys[event.key](); event.preventDefault(); }
});

after();
listen();
setInterval(() => { if (document.querySelector("[data-refresh]") && !document.hidden && !frozen && !document.querySelector("dialog[open]")) refresh(); }, 5000);
setInterval(() => { if (stream && Date.now() - last > 20000) away(true); if (drawn && !document.hidden && !frozen) map(); }, 10000);
