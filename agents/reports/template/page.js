"use strict";
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const SIDES = [["before", "Before"], ["after", "After"]];

function made(tag, kind, text) {
  const out = document.createElement(tag);
  if (kind) out.className = kind;
  if (text !== undefined) out.textContent = text;
  return out;
}

function counted(number, name) {
  return `${number} ${name}${number === 1 ? "" : "s"}`;
}

function drawStrip(digits) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "strip c1");
  svg.setAttribute("viewBox", `0 0 ${digits.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (let at = 0; at < digits.length; at++) {
    const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    cell.setAttribute("x", at);
    cell.setAttribute("width", 1.04);
    cell.setAttribute("height", 1);
    cell.setAttribute("fill", "currentColor");
    cell.setAttribute("opacity", (DIGITS.indexOf(digits[at]) / (DIGITS.length - 1)).toFixed(3));
    svg.append(cell);
  }
  return svg;
}

function chips(title, places, data, hits, more) {
  const box = made("div");
  box.append(made("h3", "", title));
  const list = made("ul", "chips");
  for (const place of places) list.append(made("li", hits.has(place) ? "hit" : "", data.items[place]));
  if (more > 0) list.append(made("li", "", `and ${more} more`));
  box.append(list);
  return box;
}

function explorer(section) {
  const data = JSON.parse(section.querySelector(".data").textContent);
  const [user, find, step, play] = [".user", ".find", ".step", ".play"].map((name) => section.querySelector(name));
  const [status, about, pair, items] = [".status", ".about", ".pair", ".items"].map((name) => section.querySelector(name));
  const groups = new Map();
  data.users.forEach((one, at) => {
    if (!groups.has(one.group)) {
      const group = made("optgroup");
      group.label = one.group;
      groups.set(one.group, group);
      user.append(group);
    }
    const change = one.metric[0] === null || one.metric[1] === null ? "" : ` (${(one.metric[1] - one.metric[0] >= 0 ? "+" : "")}${(one.metric[1] - one.metric[0]).toFixed(3)})`;
    const option = made("option", "", one.id + change);
    option.value = at;
    groups.get(one.group).append(option);
  });
  let timer = 0;

  function showSide(one, name, title, at) {
    const side = made("div", "side");
    const chain = one[name];
    const value = one.metric[name === "before" ? 0 : 1];
    const head = made("h3", "", title);
    head.append(made("span", "", value === null ? "" : `${data.metric} ${value.toFixed(3)}`));
    side.append(head);
    const strips = made("div", "strips");
    chain.strips.forEach((digits, place) => {
      const row = made("div", place === at ? "now" : "");
      row.append(made("span", "", `u${data.steps[place]}`), drawStrip(digits));
      strips.append(row);
    });
    side.append(strips);
    const list = made("ol", "list");
    list.setAttribute("aria-label", `${title}: the list of u${data.steps[at]}`);
    const earlier = at > 0 ? chain.lists[at - 1] : [];
    chain.lists[at].forEach((item, rank) => {
      const hit = chain.hits[at][rank] === 1;
      const row = made("li", hit ? "hit" : "");
      row.append(made("span", "rank", rank + 1), made("span", "name", data.items[item]));
      const was = earlier.indexOf(item);
      const moved = at === 0 || was === rank ? "" : was < 0 ? "new" : was > rank ? `\u2191${was - rank}` : `\u2193${rank - was}`;
      const tag = [hit ? "hit" : "", moved].filter(Boolean).join(" ");
      row.append(tag ? made("span", "tag", tag) : made("span"));
      list.append(row);
    });
    side.append(list);
    if (!chain.lists[at].length) side.append(made("p", "note", "No list: all unseen items have the same score."));
    return side;
  }

  function show() {
    const one = data.users[Number(user.value)];
    const at = Number(step.value);
    const held = new Set(one.held);
    pair.replaceChildren(...SIDES.filter(([name]) => one[name]).map(([name, title]) =>
      showSide(one, name, one.before ? title : "The model", at)));
    const hits = SIDES.filter(([name]) => one[name]).map(([name]) => `${one[name].hits[at].reduce((a, b) => a + b, 0)} ${name}`);
    status.textContent = `User ${one.id}, u${data.steps[at]}: hits in the list: ${hits.join(", ")}.`;
    step.setAttribute("aria-valuetext", `u${data.steps[at]}`);
    about.textContent = `${counted(one.train, "train item")}, ${counted(one.heldCount, "held-out item")}. Group: ${one.group}.`;
    items.replaceChildren(
      chips("Held out, what a hit is", one.held, data, held, one.heldCount - one.held.length),
      chips(data.historyTitle, one.history, data, new Set(), one.train - one.history.length));
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }

  user.addEventListener("change", show);
  step.addEventListener("input", () => { stop(); show(); });
  find.addEventListener("change", () => {
    const wanted = find.value.trim();
    const at = data.users.findIndex((one) => one.id === wanted || one.user === wanted);
    if (at >= 0) {
      user.value = at;
      show();
    } else if (wanted) {
      status.textContent = `User ${wanted} is not among the ${data.users.length} of this page; refit report --users ${wanted} adds the user.`;
    }
  });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (step.value === step.max) step.value = 0;
    show();
    play.textContent = "Pause";
    timer = setInterval(() => {
      step.value = Number(step.value) + 1;
      show();
      if (step.value === step.max) stop();
    }, 900);
  });
  show();
}

document.querySelectorAll(".explorer").forEach(explorer);
