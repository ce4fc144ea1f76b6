// Views by the part of the address after #, so that a staircase can be linked to.

import { byId } from "./dom.js";
import { token } from "./api.js";
import * as devices from "./devices.js";
import * as staircase from "./staircase.js";
import * as model from "./model.js";
import * as jobs from "./jobs.js";

const views = { devices, staircase, model, jobs };
let current = null;

function where() {
  const [name, query = ""] = location.hash.slice(1).split("?");
  return [name in views ? name : "devices", new URLSearchParams(query)];
}

function show(moved) {
  const [name, query] = where();
  for (const other of Object.keys(views)) {
    byId(`view-${other}`).hidden = other !== name;
    const link = document.querySelector(`nav a[href="#${other}"]`);
    if (other === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = byId(`${name}-title`);
  document.title = `${title.textContent} · Gharial`;
  if (current !== name) {
    if (current) views[current].hide?.();
    current = name;
    if (moved) title.focus();
  }
  views[name].show(query);
}

document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  byId("main").focus();
});

function useToken(value) {
  token.set(value);
  byId("token").value = "";
  note();
  byId("access").open = false;
  byId("access").querySelector("summary").focus();
  for (const view of Object.values(views)) view.forget?.();
  show(false);
}

function note() {
  byId("access").querySelector("summary").textContent = token.get() ? "Token: in use" : "Token";
}

byId("token-form").addEventListener("submit", event => {
  event.preventDefault();
  useToken(byId("token").value.trim());
});
byId("token-forget").addEventListener("click", () => useToken(""));

for (const view of Object.values(views)) view.start();
note();
addEventListener("hashchange", () => show(true));
show(false);
