"""What measures servers side by side: machine, servers, loads, generator, measures, figures. See bench/README.md."""
