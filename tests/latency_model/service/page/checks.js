// What a page of any view must have, as a list of what is wrong.
() => {
  const wrong = [];
  const visible = e => e.checkVisibility();
  const named = e => e.getAttribute("aria-label")?.trim() || e.textContent.trim()
    || [...(e.labels ?? [])].map(l => l.textContent.trim()).join("")
    || (e.getAttribute("aria-labelledby") ?? "").split(" ").map(id => document.getElementById(id)?.textContent).join("");
  for (const e of document.querySelectorAll("input, select, progress"))
    if (visible(e) && !e.getAttribute("aria-label") && !(e.labels?.length && e.labels[0].textContent.trim())) wrong.push(["no label", e.outerHTML]);
  for (const e of document.querySelectorAll("a[href], button, summary, [role=region], [role=img], nav, section"))
    if (visible(e) && !named(e)) wrong.push(["no name", e.outerHTML]);
  for (const e of document.querySelectorAll("img")) if (!e.hasAttribute("alt")) wrong.push(["no alt", e.outerHTML]);
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) wrong.push(["id twice", id]);
  for (const name of ["aria-describedby", "aria-labelledby", "for"])
    for (const e of document.querySelectorAll(`[${name}]`))
      for (const id of e.getAttribute(name).split(" ")) if (!document.getElementById(id)) wrong.push([`${name} of nothing`, id]);
  for (const e of document.querySelectorAll("th")) if (visible(e) && !e.hasAttribute("scope")) wrong.push(["no scope", e.outerHTML]);
  for (const e of document.querySelectorAll("table")) if (!e.caption?.textContent.trim()) wrong.push(["no caption", e.outerHTML.slice(0, 80)]);
  for (const e of document.querySelectorAll(".scroll")) if (e.tabIndex !== 0) wrong.push(["scrolls without the keyboard", e.className]);
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) wrong.push(["order of its own", e.outerHTML]);
  const heads = [...document.querySelectorAll("h1, h2, h3")].filter(visible).map(e => Number(e.tagName[1]));
  if (heads.filter(level => level === 1).length !== 1) wrong.push(["not one h1", heads]);
  if (heads.some((level, at) => at && level > heads[at - 1] + 1)) wrong.push(["level left out", heads]);
  if (document.documentElement.lang !== "en") wrong.push(["no language", ""]);
  if (document.querySelectorAll("main").length !== 1) wrong.push(["not one main", ""]);
  return wrong.map(([what, where]) => `${what}: ${String(where).slice(0, 120)}`);
}
