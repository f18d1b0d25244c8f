"""One file a contender: something that scores pairs given as token ids. Each runs in a process of its own."""
