// An estimate in parts: the figures, what other channel counts would save, and each layer.

import { duration, el, interval, number, percent, plural, table } from "./dom.js";

const SHOWN = 12;

/** Return a sentence on an estimate and the elements that show it. */
export function result(found) {
  const whole = `${duration(found.latency_us)}, between ${interval(found.low_us, found.high_us)} at ${number(100 * found.confidence).replace(/\.0+$/, "")} %`;
  const unpriced = Object.entries(found.unpriced);
  const parts = [figures(found)];
  if (found.flags.length || unpriced.length) {
    parts.push(el("h2", {}, "What to know"), el("ul", {},
      found.flags.map(flag => el("li", {}, flag)),
      unpriced.map(([kind, count]) => el("li", {}, `${plural(count, "operator")} of the kind ${kind} without a price of their own`))));
  }
  parts.push(...savings(found), ...layers(found));
  return [`${found.model}: ${whole}.`, parts];
}

const sum = parts => parts.reduce((total, part) => total + part.corrected_us, 0);

function figures(found) {
  const convs = sum(found.sites), ops = sum(found.ops);
  const card = (name, value, about) => el("div", {}, el("dt", {}, name), el("dd", { class: "value" }, value), el("dd", { class: "about" }, about));
  return el("dl", { class: "cards" },
    card("Latency", duration(found.latency_us), `${interval(found.low_us, found.high_us)} in ${Math.round(1000 * found.confidence) / 10} % of cases`),
    card("Convolutions", percent(convs / found.latency_us), `${duration(convs)}, ${found.sites.length} of them`),
    card("Other operators", percent(ops / found.latency_us), `${duration(ops)}, ${found.ops.length} of them`),
    card("Sum of rows", duration(found.raw_sum_us), found.correction.networks ? "before the correction to whole networks" : "nothing corrects it: no whole network was measured"));
}

function savings(found) {
  const { sites, padding_saves_us: padding } = found.channels;
  const known = found.sites.map(site => [site.name, Object.hasOwn(sites, site.name) ? sites[site.name] : null]).filter(([, around]) => around);
  const title = el("h2", {}, "What an aligned channel count would save");
  const lacking = found.sites.length - known.length;
  const none = lacking ? el("p", { class: "note" }, `${plural(lacking, "convolution")} without a measured staircase not counted.`) : null;
  const better = known.map(([name, around]) => [name, around, Math.max(around.padded.saved_us, ...["out", "in"].map(side => around[side].below?.saved_us ?? 0))])
    .filter(([, , most]) => most > 0).sort((a, b) => b[2] - a[2]);
  if (!better.length) return [title, el("p", {}, "Nothing: no measured count near those of this network is cheaper."), none].filter(Boolean);
  const rows = better.map(([name, around]) => el("tr", {},
    el("th", { scope: "row", class: "name" }, name, el("small", {}, `${around.in.count} → ${around.out.count} channels, ${duration(around.latency_us)}`)),
    el("td", { class: "name" }, options(around))));
  const heads = [["Convolution", "name"], ["Cheaper counts nearby", "name"]];
  const sum = padding > 0.001 * found.latency_us ? `Padding counts that are not aligned saves up to ${duration(padding)}, ${percent(padding / found.latency_us)} of the whole, and removes no channel. `
    : "Padding saves nothing, as far as counts were measured. ";
  return [title,
    el("p", {}, sum, "Each convolution by itself, to the nearest efficient count; layers that share channels change together."), none,
    folding(table("Convolutions, the largest saving first", heads, rows), rows)].filter(Boolean);
}

/** Return a line for each way to a cheaper convolution. */
function options(around) {
  const { padded, out, in: inputs, latency_us: now } = around;
  return [
    padded.saved_us > 0 && [`padded to ${padded.in} → ${padded.out}`, padded],
    out.below && [`${out.below.count} outputs`, out.below],
    inputs.below && [`${inputs.below.count} inputs`, inputs.below],
  ].filter(Boolean).map(([text, step]) => el("div", {}, `${text} `, el("span", { class: "saves" }, `saves ${duration(step.saved_us)}`), `, ${percent(step.saved_us / now)}`));
}

function layers(found) {
  const all = [...found.sites.map(site => ({ ...site, conv: true })), ...found.ops].map((part, at) => ({ ...part, at }));
  const most = Math.max(...all.map(part => part.corrected_us), 1e-9);
  const rows = [...all].sort((a, b) => b.corrected_us - a.corrected_us).map(part => [part, layer(part, most, found)]);
  const heads = [["Layer", "name"], ["Latency, part of the whole", "name"], ["From", ""]];
  const shown = table(`${plural(all.length, "layer")}, the slowest first`, heads, rows.map(([, row]) => row));
  const wrapped = folding(shown, rows.map(([, row]) => row));
  const order = el("button", { type: "button", "aria-pressed": "false", click: () => {
    const pressed = order.getAttribute("aria-pressed") !== "true";
    order.setAttribute("aria-pressed", String(pressed));
    const sorted = pressed ? [...rows].sort((a, b) => a[0].at - b[0].at) : rows;
    shown.querySelector("tbody").replaceChildren(...sorted.map(([, row]) => row));
    shown.querySelector("caption").textContent = `${plural(all.length, "layer")}, ${pressed ? "in the order of the network" : "the slowest first"}`;
    wrapped.unfold();
  } }, "In the order of the network");
  return [el("h2", {}, "Latency by layer"), el("p", {}, order), wrapped];
}

function layer(part, most, found) {
  const filled = el("span");
  filled.style.width = `${100 * Math.max(0, part.corrected_us) / most}%`;
  return el("tr", {},
    el("th", { scope: "row", class: "name" }, part.name, el("small", {}, part.shape)),
    el("td", { class: "name" }, `${duration(part.corrected_us)}, ${percent(part.corrected_us / found.latency_us)}`,
      el("span", { class: part.conv ? "bar" : "bar other", "aria-hidden": "true" }, filled)),
    el("td", {}, part.source));
}

/** Return a table that shows its first rows until a button shows them all. */
function folding(shown, rows) {
  const folded = rows.slice(SHOWN);
  const wrapped = el("div", {}, shown);
  wrapped.unfold = () => {
    for (const row of rows) row.hidden = false;
    wrapped.querySelector(":scope > button")?.remove();
  };
  if (folded.length < 4) return wrapped;
  for (const row of folded) row.hidden = true;
  wrapped.append(el("button", { type: "button", click: () => {
    wrapped.unfold();
    shown.focus();
  } }, `Show all ${rows.length}`));
  return wrapped;
}
