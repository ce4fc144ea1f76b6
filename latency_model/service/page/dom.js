// Elements and texts. Text from outside becomes text nodes and attributes, never markup.

export const byId = id => document.getElementById(id);

/** Return a new element; attributes that are functions listen to the event of their name. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
}

/** Tell screen readers. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** Return a table in a region of its own that scrolls; heads are [text, class] pairs, rows lists of cells. */
export function table(caption, heads, rows) {
  const head = el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)));
  return el("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, rows)));
}

const digits = new Map();

/** Return a number with three significant digits, or all digits before the point. */
export function number(value) {
  if (value === 0) return "0";
  const places = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  if (!digits.has(places)) digits.set(places, new Intl.NumberFormat("en", { maximumFractionDigits: places, minimumFractionDigits: places }));
  return digits.get(places).format(value);
}

/** Return microseconds as people read them. */
export const duration = us => Math.abs(us) >= 1000 ? `${number(us / 1000)} ms` : `${number(us)} µs`;

/** Return both ends of an interval with one unit. */
export function interval(low, high) {
  return high >= 1000 ? `${number(low / 1000)} – ${number(high / 1000)} ms` : `${number(low)} – ${number(high)} µs`;
}

export const percent = part => `${number(100 * part)} %`;

export function size(bytes) {
  return bytes >= 1e6 ? `${number(bytes / 1e6)} MB` : `${number(bytes / 1e3)} kB`;
}

export const plural = (count, word, many = `${word}s`) => `${count.toLocaleString("en")} ${count === 1 ? word : many}`;

/** Return how long ago a moment in seconds was. */
export function ago(seconds) {
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  if (passed < 90) return `${Math.round(passed)} s ago`;
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  if (passed < 129600) return `${Math.round(passed / 3600)} h ago`;
  return `${Math.round(passed / 86400)} days ago`;
}
