// The staircase of one site on one or more devices: the form, and what comes of it.

import { call } from "./api.js";
import { draw, swatch, whenColoursChange } from "./chart.js";
import { environments } from "./devices.js";
import { byId, duration, el, interval, plural } from "./dom.js";
import { measure } from "./measure.js";
import { problem } from "./problem.js";
import { PARTS, compose, parse } from "./shape.js";

const config = () => byId("config");
const axis = () => document.querySelector('input[name="axis"]:checked').value;
const chosen = () => [...document.querySelectorAll("#staircase-devices input:checked")].map(box => box.value);
let known = [];
let lines = [];
let asked = 0;
let sitesOf = "";

export function start() {
  byId("staircase-form").addEventListener("submit", event => {
    event.preventDefault();
    go();
  });
  for (const name of ["site-precision", "site-batch"]) byId(name).addEventListener("change", () => sites());
  byId("staircase-devices").addEventListener("change", () => sites(true));
  byId("site").addEventListener("change", () => {
    set(byId("site").value);
    go();
  });
  byId("at").addEventListener("change", () => {
    byId(axis() === "out" ? "part-inputs" : "part-outputs").value = byId("at").value;
    config().value = compose(parts());
    go();
  });
  config().addEventListener("input", () => spread(config().value));
  for (const name of PARTS) byId(`part-${name}`).addEventListener("input", () => { config().value = compose(parts()); });
  whenColoursChange(() => lines.length && drawn());
}

export function forget() {
  known = [];
  sitesOf = "";
}

const parts = () => Object.fromEntries(PARTS.map(name => [name, byId(`part-${name}`).value.trim()]));

function set(text) {
  config().value = text;
  spread(text);
}

function spread(text) {
  for (const [name, value] of Object.entries(parse(text) ?? {})) byId(`part-${name}`).value = value;
}

/** Put the choice into the address, which shows it. */
function go() {
  const query = new URLSearchParams([["config", config().value.trim()], ["axis", axis()], ...chosen().map(key => ["environment", key])]);
  const hash = `#staircase?${query}`;
  if (location.hash === hash) ask();
  else location.hash = hash;
}

export async function show(query) {
  try {
    if (!known.length) {
      known = await environments();
      devices(query.getAll("environment"));
    }
    for (const box of document.querySelectorAll("#staircase-devices input")) if (query.has("environment")) box.checked = query.getAll("environment").includes(box.value);
    await sites(true);
  } catch (error) {
    return wrong(error);
  }
  if (query.has("config")) set(query.get("config"));
  else if (byId("site").value) set(byId("site").value);
  for (const box of document.querySelectorAll('input[name="axis"]')) if (query.has("axis")) box.checked = box.value === query.get("axis");
  return config().value ? ask() : undefined;
}

function wrong(error) {
  byId("staircase-problem").replaceChildren();
  problem(byId("staircase-problem"), error);
}

function devices(wanted) {
  const boxes = known.map((found, place) => el("label", {},
    el("input", { type: "checkbox", value: found.key, checked: wanted.length ? wanted.includes(found.key) : place === 0 }), found.text));
  byId("staircase-devices").querySelector(".choices").replaceChildren(...(boxes.length ? boxes : [el("p", {}, "No device has rows yet.")]));
}

function options(select, values, first) {
  const before = select.value;
  select.replaceChildren(el("option", { value: "" }, first), ...values.map(value => el("option", {}, value)));
  select.value = values.map(String).includes(before) ? before : "";
}

/** Offer the sites of the first device that is chosen; `kept` leaves them when they are those already. */
async function sites(kept = false) {
  const key = chosen()[0];
  if (!key || (kept && key === sitesOf)) return;
  if (key !== sitesOf) {
    const about = await call(`/v1/environments/${encodeURIComponent(key)}`);
    options(byId("site-precision"), about.precisions, "any");
    options(byId("site-batch"), about.batches, "any");
  }
  sitesOf = key;
  const found = await call(`/v1/environments/${encodeURIComponent(key)}/sites`, { query: { precision: byId("site-precision").value, batch: byId("site-batch").value } });
  byId("site").replaceChildren(...found.sites.map(site => el("option", { value: site.config }, `${site.title} (${plural(site.rows, "row")})`)));
  byId("site-note").textContent = found.total > found.sites.length
    ? `${plural(found.total, "site")}, of which the ${found.sites.length} with the most rows are listed` : plural(found.total, "site");
  const listed = found.sites.some(site => site.config === config().value);
  if (listed) byId("site").value = config().value;
}

async function ask() {
  const mine = ++asked;
  const text = config().value.trim(), keys = chosen(), along = axis();
  byId("staircase-problem").replaceChildren();
  if (!keys.length) return wrong(new Error("No device is chosen; choose at least one."));
  byId("staircase-summary").textContent = "Asking…";
  const answers = await Promise.allSettled(keys.map(key => call("/v1/staircase", { query: { environment: key, config: text, axis: along } })));
  if (mine !== asked) return undefined;
  lines = [];
  answers.forEach((answer, place) => {
    const found = known.find(one => one.key === keys[place]);
    if (answer.status === "fulfilled" && answer.value.counts.length) {
      lines.push({ ...answer.value, name: found?.text ?? keys[place], letter: String.fromCharCode(65 + lines.length) });
    } else refused(answer, found, keys[place], text);
  });
  byId("staircase-result").hidden = !lines.length;
  byId("staircase-summary").textContent = lines.length ? summary() : "";
  others();
  if (!lines.length) return undefined;
  numbers();
  return drawn();
}

function refused(answer, found, key, text) {
  const name = found?.text ?? key;
  const place = byId("staircase-problem");
  if (answer.status === "fulfilled") {
    return problem(place, new Error(`${name}: the site was measured, but not with this count on the other side; choose one that was.`));
  }
  const error = answer.reason;
  error.message = `${name}: ${error.message}`;
  const job = { configs: [text], wants: { environment: key } };
  return problem(place, error, error.type === "not-measured" ? ["Ask for it to be measured", () => measure(place, JSON.stringify(job), "application/json")] : null);
}

function others() {
  const values = [...new Set(lines.flatMap(line => line.others))].sort((a, b) => a - b);
  byId("at-field").hidden = !values.length;
  document.querySelector('label[for="at"]').textContent = axis() === "out" ? "Input channels, as measured" : "Output channels, as measured";
  byId("at").replaceChildren(...values.map(value => el("option", {}, value)));
  if (lines.length) byId("at").value = String(lines[0].at);
}

function summary() {
  const side = axis() === "out" ? "output" : "input";
  return lines.map(line => {
    const shown = line.efficient.slice(-12).join(", ");
    const more = line.efficient.length > 12 ? `${line.efficient.length} counts, the largest of them ` : "";
    return `${line.letter}: ${plural(line.counts.length, "count")} measured; efficient ${side} counts are ${more}${shown}.`;
  }).join(" ");
}

async function drawn() {
  const place = byId("staircase-chart");
  place.hidden = false;
  place.setAttribute("aria-label", `Latency by ${axis() === "out" ? "output" : "input"} channels of ${config().value}`);
  byId("staircase-legend").replaceChildren(...lines.map((line, at) => el("li", {}, swatch(at), el("span", {}, `${line.letter}: ${line.name}`))),
    el("li", { class: "note" }, "Diamonds are efficient counts: no larger one costs the same within 2 %. Thick lines are what padding with zero channels reaches, thin ones with their 95 % intervals what was measured."));
  try {
    await draw(place, lines, axis());
  } catch (error) {
    place.hidden = true;
    problem(byId("staircase-problem"), error);
  }
}

function numbers() {
  const counts = [...new Set(lines.flatMap(line => line.counts))].sort((a, b) => a - b);
  const places = lines.map(line => new Map(line.counts.map((count, at) => [count, at])));
  const efficient = lines.map(line => new Set(line.efficient));
  const rows = counts.map(count => el("tr", {}, el("th", { scope: "row", class: "number" }, count), lines.map((line, which) => {
    const at = places[which].get(count);
    if (at === undefined) return el("td", { class: "name" }, "not measured");
    const good = efficient[which].has(count);
    return el("td", { class: good ? "name efficient" : "name" }, duration(line.latency_us[at]), good ? " ◆ efficient" : "",
      el("small", {}, interval(line.low_us[at], line.high_us[at])));
  })));
  const heads = lines.map(line => el("th", { scope: "col", class: "name" }, lines.length > 1 ? line.letter : "latency", lines.length > 1 ? el("small", {}, line.name) : null));
  byId("staircase-table").replaceChildren(el("table", {},
    el("caption", {}, `Latency with its 95 % interval by ${axis() === "out" ? "output" : "input"} channels`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "number" }, "channels"), heads)), el("tbody", {}, rows)));
}
