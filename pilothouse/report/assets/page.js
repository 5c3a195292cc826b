// Draws the charts of the page: options chosen, series shown, light or dark. Data come from the page itself, nothing from afar.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = {};
  const hidden = new Set();
  const rungs = document.getElementById("rung");
  for (const chart of charts) for (const choice of chart.choices) chosen[choice.group] ??= choice.chosen;
  if (rungs) chosen.rung = Number(rungs.value);

  const HEAT = {
    light: [[0, "#eef1f7"], [0.4, "#8fb3ff"], [0.7, "#4a5fd8"], [0.87, "#9b3fae"], [1, "#e0333a"]],
    dark: [[0, "#1f2530"], [0.4, "#2f55a4"], [0.7, "#6a79f0"], [0.87, "#c768d8"], [1, "#ff6a63"]],
  };

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { ink: of("--ink"), quiet: of("--quiet"), line: of("--line"), card: of("--card"), heat: HEAT[dark.matches ? "dark" : "light"] };
  }

  function axis(given, colours) {
    const title = { ...(given?.title ?? {}), font: { size: 12, color: colours.quiet }, standoff: 8 };
    return { gridcolor: colours.line, zeroline: false, linecolor: colours.line, tickfont: { size: 12, color: colours.quiet }, automargin: true,
      showspikes: false, ...given, title };
  }

  function layout(given, colours) {
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.ink };
    const ticked = (marks, more) => (marks ?? []).map((mark) => ({ ...more(mark), ...mark, line: { color: colours.quiet, ...mark.line } }));
    return {
      height: 320, margin: { l: 56, r: 14, t: 12, b: 48 }, ...given, font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: given.showlegend ?? false, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12, color: colours.quiet }, ...given.legend }, modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.quiet, activecolor: colours.ink }, xaxis: axis(given.xaxis, colours), yaxis: axis(given.yaxis, colours), dragmode: "zoom",
      hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, font: { color: colours.ink, size: 12 } },
      shapes: ticked(given.shapes, () => ({ layer: "below" })),
      annotations: (given.annotations ?? []).map((note) => ({ ...note, font: { size: 11, color: colours.quiet } })),
    };
  }

  function traces(given, colours) {
    return given.map((trace) => {
      const visible = trace.meta === undefined || !hidden.has(trace.meta);
      if (trace.type === "heatmap") {
        const bar = { ...trace.colorbar, tickfont: { color: colours.quiet, size: 11 } };
        bar.title = { ...bar.title, font: { color: colours.quiet, size: 12 } };
        return { ...trace, colorscale: colours.heat, colorbar: bar };
      }
      if (trace.type === "bar") return { ...trace, visible, error_y: { ...trace.error_y, color: colours.quiet } };
      return { ...trace, visible };
    });
  }

  function figure(chart) {
    const parts = chart.choices.map((choice) => String(Math.min(chosen[choice.group], choice.options.length - 1)));
    return chart.figures[parts.join("/") || "0"] ?? { data: [], layout: {} };
  }

  function draw(chart) {
    const card = document.getElementById(`chart-${chart.key}`);
    const { data, layout: wanted } = figure(chart);
    const colours = theme();
    const given = data.length ? wanted : { ...wanted, xaxis: { visible: false }, yaxis: { visible: false },
      annotations: [{ text: "not run, or nothing recorded, at this load", showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper" }] };
    const timed = rungs && chart.choices.some((choice) => choice.group === "rung");
    card.querySelector(".at").textContent = timed ? `at ${rungs.selectedOptions[0].textContent}` : "";
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
    return Plotly.react(card.querySelector(".plot"), traces(data, colours), layout(given, colours), options)
      .then(() => { card.dataset.drawn = data.length ? "yes" : "empty"; });
  }

  function drawAll(which = () => true) {
    return Promise.all(charts.filter(which).map(draw));
  }

  function choose(group, option) {
    chosen[group] = option;
    for (const button of document.querySelectorAll(`button[data-group="${group}"]`)) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.option) === option));
    }
    for (const select of document.querySelectorAll(`select[data-group="${group}"]`)) select.value = String(option);
    if (group === "rung") {
      for (const part of document.querySelectorAll("[data-rung]")) part.hidden = Number(part.dataset.rung) !== option;
    }
    drawAll((chart) => chart.choices.some((choice) => choice.group === group));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.group) choose(button.dataset.group, Number(button.dataset.option));
    if (button?.dataset.series) {
      const series = Number(button.dataset.series);
      if (!hidden.delete(series)) hidden.add(series);
      button.setAttribute("aria-pressed", String(!hidden.has(series)));
      for (const row of document.querySelectorAll(`[data-series-row="${series}"]`)) row.classList.toggle("off", hidden.has(series));
      drawAll();
    }
  });
  document.addEventListener("change", (event) => {
    if (event.target.dataset?.group) choose(event.target.dataset.group, Number(event.target.value));
  });
  dark.addEventListener("change", () => drawAll());
  drawAll().then(() => { document.documentElement.dataset.ready = "yes"; });
})();
