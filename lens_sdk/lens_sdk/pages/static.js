Labels.begin();
document.querySelectorAll("[data-criterion]").forEach(Labels.attach);
Labels.count();
