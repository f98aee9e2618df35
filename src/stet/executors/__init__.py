"""Where the chunks of long work are run: in this process, or by workers that hold pairs."""
