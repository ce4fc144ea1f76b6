// The queue of jobs, asked for every two seconds while it is looked at.

import { call } from "./api.js";
import { ago, byId, el, plural, table } from "./dom.js";
import { problem } from "./problem.js";

const EVERY_MS = 2000, AFTER_PROBLEM_MS = 10000;
const WORDS = { queued: "waits", leased: "being measured", done: "done", failed: "failed", cancelled: "cancelled" };
const HEADS = [["Job", "name"], ["State", ""], ["Progress", ""], ["Where", "name"], ["Changed", ""], ["Action", ""]];
let timer = null;
let round = 0;
let shown = false;
let paused = false;
const rows = new Map();

export function start() {
  byId("jobs-state").addEventListener("change", () => {
    rows.clear();
    look();
  });
  byId("jobs-pause").addEventListener("click", () => {
    paused = !paused;
    byId("jobs-pause").setAttribute("aria-pressed", String(paused));
    look();
  });
  document.addEventListener("visibilitychange", () => look());
}

export function show() {
  shown = true;
  look();
}

export function hide() {
  shown = false;
  round += 1;
  clearTimeout(timer);
}

export function forget() {
  rows.clear();
}

async function look() {
  clearTimeout(timer);
  const mine = ++round;
  if (!shown || paused || document.hidden) return;
  let wait = EVERY_MS;
  try {
    const found = await call("/v1/jobs", { query: { state: byId("jobs-state").value } });
    if (mine !== round) return;
    const had = byId("view-jobs").contains(document.activeElement);
    byId("jobs-problem").replaceChildren();
    put(found);
    // What was focused may be gone: the keyboard goes on from the view, not from the top of the page.
    if (had && document.activeElement === document.body) byId("jobs-title").focus();
  } catch (error) {
    if (mine !== round) return;
    wait = AFTER_PROBLEM_MS;
    const before = byId("jobs-problem").textContent;
    if (!before.startsWith(error.message)) {
      byId("jobs-problem").replaceChildren();
      problem(byId("jobs-problem"), error);
    }
  }
  timer = setTimeout(look, wait);
}

function put(found) {
  const counts = {};
  for (const job of found) counts[job.state] = (counts[job.state] ?? 0) + 1;
  const said = found.length ? Object.entries(WORDS).filter(([state]) => counts[state])
    .map(([state, word]) => `${counts[state]} ${state === "queued" && counts[state] > 1 ? "wait" : word}`).join(", ") : "There are no jobs.";
  // Read out only when it changes.
  if (byId("jobs-summary").textContent !== said) byId("jobs-summary").textContent = said;
  byId("jobs-clock").textContent = `As of ${new Date().toLocaleTimeString()}${found.length === 100 ? "; the latest 100 jobs" : ""}`;
  const place = byId("jobs-result");
  if (!found.length) return place.replaceChildren();
  if (!place.querySelector("tbody")) place.replaceChildren(table("Jobs, the latest first", HEADS, []));
  const body = place.querySelector("tbody");
  const wanted = found.map(row);
  for (const [at, line] of wanted.entries()) if (body.children[at] !== line) body.insertBefore(line, body.children[at] ?? null);
  while (body.children.length > wanted.length) body.lastElementChild.remove();
  for (const id of rows.keys()) if (!found.some(job => job.id === id)) rows.delete(id);
  return undefined;
}

/** Return the row of a job, the one that is there when nothing changed: a button in it keeps its focus. */
function row(job) {
  const known = rows.get(job.id);
  const text = JSON.stringify(job);
  const line = known?.line ?? el("tr");
  if (known?.text !== text) {
    const had = document.activeElement && line.contains(document.activeElement);
    line.replaceChildren(...cells(job));
    if (had) (line.querySelector("button") ?? line.closest(".scroll"))?.focus();
    rows.set(job.id, { line, text });
  }
  line.querySelector("time").textContent = ago(job.changed_at);
  return line;
}

/** Return what a job wants of one thing as text: a value, a list of them, or pairs. */
function said(value) {
  if (Array.isArray(value)) return value.join(" and ");
  if (value && typeof value === "object") return Object.entries(value).map(pair => pair.join("=")).join(" and ");
  return value === true ? "too" : String(value);
}

function cells(job) {
  const what = job.kind === "model" ? `model ${job.request.name ?? ""}` : plural(job.total, "convolution");
  const wants = Object.entries(job.wants).map(([name, value]) => `${name} ${said(value)}`).join(", ");
  const ended = ["done", "failed", "cancelled"].includes(job.state);
  const bar = el("progress", { max: Math.max(job.total, 1), value: job.done, "aria-label": `progress of job ${job.id.slice(0, 8)}` });
  const tries = job.attempts > 1 ? el("small", { class: "note" }, `attempt ${job.attempts} of ${job.max_attempts}`) : null;
  return [
    el("th", { scope: "row", class: "name" }, what, el("small", {}, job.id.slice(0, 8), wants ? `, wants ${wants}` : "")),
    el("td", {}, el("span", { class: `state ${job.state}` }, WORDS[job.state] ?? job.state), tries),
    el("td", {}, `${job.done} of ${job.total}`, el("br"), bar),
    el("td", { class: "name" }, job.worker ?? "", job.error ? el("small", {}, job.error) : null),
    el("td", {}, el("time", { datetime: new Date(1000 * job.changed_at).toISOString() })),
    el("td", {}, ended ? "" : el("button", { type: "button", "aria-label": `cancel job ${job.id.slice(0, 8)}`, click: () => cancel(job) }, "Cancel")),
  ];
}

async function cancel(job) {
  try {
    await call(`/v1/jobs/${encodeURIComponent(job.id)}/cancel`, { method: "POST" });
    await look();
  } catch (error) {
    byId("jobs-problem").replaceChildren();
    problem(byId("jobs-problem"), error);
  }
}
