"use strict";
// What a page of curves does beyond showing them: values under the pointer, smoothing, and runs shown or hidden.
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");

function number(value) {
  const size = Math.abs(value);
  return size >= 1e6 || (size > 0 && size < 1e-4) ? value.toExponential(3) : String(+value.toPrecision(5));
}

function prepare(svg) {
  const lines = data[svg.id];
  const [width, height, left, right, top, bottom] = svg.dataset.box.split(",").map(Number);
  const [first, last] = svg.dataset.x.split(",").map(Number);
  const [low, high] = svg.dataset.y.split(",").map(Number);
  const cursor = svg.querySelector(".cursor");
  const x = (step) => left + ((width - left - right) * (step - first)) / (last - first || 1);
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low || 1);

  // An exponential moving average, corrected for its start, over the line as it is, which stays behind it.
  svg.smooth = (share) =>
    lines.forEach((line, place) => {
      const shape = svg.querySelector(".s" + place);
      if (!shape || line.held) return;
      let raw = svg.querySelector(".raw" + place);
      if (share > 0 && !raw) {
        raw = shape.cloneNode();
        raw.classList.remove("s" + place);
        raw.classList.add("raw", "raw" + place);
        shape.before(raw);
      }
      if (raw) raw.classList.toggle("gone", share === 0);
      let mean = 0;
      let weight = 0;
      const points = line.points.map(([step, value]) => {
        mean = mean * share + value * (1 - share);
        weight = weight * share + 1 - share;
        return x(step).toFixed(1) + "," + y(mean / weight).toFixed(1);
      });
      shape.setAttribute("points", points.join(" "));
    });

  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    const wanted = first + ((at - left) / (width - left - right)) * (last - first);
    let near = null;
    for (const line of lines)
      for (const [step] of line.points)
        if (near === null || Math.abs(step - wanted) < Math.abs(near - wanted)) near = step;
    if (near === null) return;
    const values = lines.map((line) => {
      const point = line.points.filter(([step]) => step <= near).pop();
      return point ? "\n" + number(point[1]) + "  " + line.label + (line.held ? " (held out)" : "") : "";
    });
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(near));
    tip.textContent = "step " + near + values.join("");
    tip.style.display = "block";
    tip.style.left = Math.max(0, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4)) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  svg.addEventListener("mouseleave", () => {
    tip.style.display = "none";
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, -9);
  });
}

const charts = document.querySelectorAll("svg.chart");
charts.forEach(prepare);
document.getElementById("smooth").addEventListener("input", (event) =>
  charts.forEach((svg) => svg.smooth(Number(event.target.value))),
);
document.querySelectorAll("input[data-run]").forEach((box) =>
  box.addEventListener("change", () =>
    document.querySelectorAll(".run" + box.dataset.run).forEach((one) => one.classList.toggle("hidden", !box.checked)),
  ),
);
