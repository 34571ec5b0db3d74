// Chooses the theme before anything is drawn, so that a dark page does not flash.
"use strict";
{
  let chosen = null;
  try { chosen = localStorage.getItem("redisaq-theme"); } catch { /* private windows */ }
  document.documentElement.dataset.theme = chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}
