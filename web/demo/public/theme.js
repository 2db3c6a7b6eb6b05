/** Sets the chosen theme before anything is painted; src/theme.ts changes it. */
try {
  const theme = localStorage.getItem("deltamem-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // without storage the system's theme is used
}
