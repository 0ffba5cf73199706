// Charts as SVG, drawn again from scratch each time: a few hundred points, scales with round numbers, colours from the
// style sheet. Each says in words what it shows.

const SVG = "http://www.w3.org/2000/svg";
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 8, 10, 22]; // margins, in CSS pixels

function draw(tag, attributes, ...content) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}

/** Up to `count` round numbers from 0 to at least `top`, with one decimal at most. */
export function ticks(top, count = 4, whole = false) {
  if (!(top > 0)) top = 1;
  const rough = Math.max(top / count, 0.1);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = (power < 1 ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).map((each) => each * power).find((each) => each >= rough * 0.999);
  if (whole) step = Math.max(1, Math.ceil(step));
  const found = [];
  for (let value = 0; value < top + step * 0.999; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function frame(element, height, top, format, whole) {
  const width = Math.max(200, element.clientWidth || 600);
  const scale = ticks(top, 4, whole);
  const most = scale.at(-1);
  const y = (value) => height - BOTTOM - (Math.max(0, value) / most) * (height - TOP - BOTTOM);
  const svg = draw("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height, role: "img" });
  for (const value of scale) {
    svg.append(
      draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      draw("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)));
  }
  return { svg, width, y };
}

function legend(series) {
  const box = document.createElement("ul");
  box.className = "legend";
  for (const { title, tone, now } of series) {
    const item = document.createElement("li");
    item.dataset.tone = tone;
    item.append(title, ...(now === undefined ? [] : [Object.assign(document.createElement("b"), { textContent: now })]));
    box.append(item);
  }
  return box;
}

/** Lines over time. `series`: [{title, tone, values}], all as long as `times` (ms).
 *  @param {HTMLElement} element @param {{title: string, times: number[], series: object[], span: number,
 *    format: (value: number) => string, height?: number}} chart  `span`: milliseconds that the width stands for */
export function lines(element, { title, times, series, span, format, height = 170 }) {
  const top = Math.max(...series.flatMap(({ values }) => values.filter(Number.isFinite)), 0);
  const { svg, width, y } = frame(element, height, top, format);
  const end = times.at(-1) ?? Date.now();
  const x = (time) => width - RIGHT - ((end - time) / span) * (width - LEFT - RIGHT);
  const parts = width < 420 ? 2 : 5;
  for (let part = 0; part <= parts; part++) {
    const seconds = Math.round((span / 1000) * (1 - part / parts));
    const text = part === parts ? "now" : seconds % 60 === 0 ? `−${seconds / 60} min` : `−${seconds} s`;
    svg.append(draw("text", { class: "tick", x: x(end - seconds * 1000), y: height - 5, "text-anchor": part === parts ? "end" : part ? "middle" : "start" }, text));
  }
  for (const { values, tone } of series) {
    let path = "";
    let gap = true;
    values.forEach((value, index) => {
      if (Number.isFinite(value) && end - times[index] <= span) {
        path += `${gap ? "M" : "L"}${x(times[index]).toFixed(1)},${y(value).toFixed(1)}`;
        gap = false;
      } else gap = true;
    });
    svg.append(draw("path", { class: "line", "data-tone": tone, d: path }));
  }
  const now = series.map(({ title: each, values }) => `${each} ${Number.isFinite(values.at(-1)) ? format(values.at(-1)) : "unknown"}`);
  svg.setAttribute("aria-label", `${title}, now: ${now.join(", ")}`);
  element.replaceChildren(legend(series.map((each) => ({ ...each, now: Number.isFinite(each.values.at(-1)) ? format(each.values.at(-1)) : "–" }))), svg);
}

/** Stacked bars. `bars`: [{label, short, values}], one value for each of `series`: [{title, tone}]. */
export function bars(element, { title, bars: all, series, format, height = 190 }) {
  const sums = all.map(({ values }) => values.reduce((sum, value) => sum + value, 0));
  const { svg, width, y } = frame(element, height, Math.max(...sums, 0), format, true);
  const step = (width - LEFT - RIGHT) / Math.max(all.length, 1);
  const every = Math.max(1, Math.ceil(78 / step)); // so that the days' names do not touch, the last of which ends at the edge
  all.forEach(({ label, short, values }, index) => {
    const x = LEFT + index * step + step * 0.14;
    const group = draw("g", {}, draw("title", {}, `${label}: ${values.map((value, which) => `${format(value)} ${series[which].title}`).join(", ")}`));
    group.append(draw("rect", { class: "hit", x: LEFT + index * step, y: TOP, width: step, height: height - TOP - BOTTOM }));
    let below = 0;
    values.forEach((value, which) => {
      if (!value) return;
      const upper = y(below + value);
      group.append(draw("rect", { class: "bar-part", "data-tone": series[which].tone, x, y: upper, width: step * 0.72, height: Math.max(1, y(below) - upper), rx: 1.5 }));
      below += value;
    });
    svg.append(group);
    if ((all.length - 1 - index) % every === 0) {
      svg.append(draw("text", { class: "tick", x: LEFT + (index + 0.5) * step, y: height - 5, "text-anchor": index === all.length - 1 && step < 50 ? "end" : "middle" }, short));
    }
  });
  const total = sums.reduce((sum, value) => sum + value, 0);
  svg.setAttribute("aria-label", `${title}: ${format(total)} in all${all.length ? `, at most ${format(Math.max(...sums))} on a day` : ""}`);
  element.replaceChildren(legend(series), svg);
}
