// The environments that have rows.

import { address, call, token } from "./api.js";
import { ago, byId, el, plural, table } from "./dom.js";
import { problem } from "./problem.js";

let known = null;

/** Return the environments, asked for once. */
export async function environments() {
  known ??= call("/v1/environments").catch(error => {
    known = null;
    throw error;
  });
  return known;
}

export function forget() {
  known = null;
}

export function start() {}

export async function show() {
  forget(); // counts grow
  const place = byId("devices-result");
  try {
    const found = await environments();
    place.replaceChildren(found.length ? listed(found) : el("p", {}, "There are no rows yet. Import a table with: gharial tables import."));
  } catch (error) {
    place.replaceChildren();
    problem(place, error);
  }
}

function listed(found) {
  const heads = [["Device", "name"], ["Runtime", "name"], ["Convolutions", "number"], ["Operators", "number"], ["Networks", "number"], ["Changed", ""], ["Look at", ""]];
  return table(`${plural(found.length, "environment")}`, heads, found.map(row));
}

function row(found) {
  const about = found.environment;
  const versions = [["driver", about.driver], ["CUDA", about.cuda], ["cuDNN", about.cudnn], ["clock", about.clock_policy]]
    .filter(([, value]) => value).map(([name, value]) => `${name} ${value}`);
  const options = Object.entries(about.options ?? {}).map(([name, value]) => `${name}=${value}`);
  const failed = found.failures ? el("small", {}, `${plural(found.failures, "convolution")} could not be timed`) : null;
  const rows = `/v1/environments/${encodeURIComponent(found.key)}/rows`;
  // A link cannot send a token.
  const files = token.get() ? [] : ["csv", "parquet"].flatMap(format => [" ", el("a", { href: address(rows, { format }), download: true, "aria-label": `${format} of ${about.device}` }, format)]);
  return el("tr", {},
    el("th", { scope: "row", class: "name" }, about.device, el("small", {}, versions.join(", "))),
    el("td", { class: "name" }, `${about.runtime} ${about.runtime_version}`, el("small", {}, options.join(", "))),
    el("td", { class: "number name" }, found.convs.toLocaleString("en"), failed),
    el("td", { class: "number" }, found.ops.toLocaleString("en")),
    el("td", { class: "number" }, String(found.networks)),
    el("td", {}, ago(found.changed_at), el("small", { class: "note" }, found.fresh ? `revision ${found.revision}` : "being read in")),
    el("td", {}, el("a", { href: address("#staircase", { environment: found.key }), "aria-label": `staircases of ${about.device}` }, "staircases"), ...files));
}
