"use strict";
(async () => {
  const { config, charts } = JSON.parse(document.getElementById("chart-data").textContent);
  const options = {
    config, actions: false, renderer: "svg", ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true },
  };
  let failed = 0;
  for (const { id, spec } of charts) {
    const place = document.getElementById(id);
    try {
      await vegaEmbed(place, spec, options);
    } catch (error) {
      failed += 1;
      place.textContent = `This chart could not be drawn (${error.message}); its figures stand beside it.`;
    }
    await new Promise((next) => setTimeout(next)); // the page stays usable in between
  }
  document.documentElement.dataset.charts = `${charts.length - failed} of ${charts.length}`;
})();
