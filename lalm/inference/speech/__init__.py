"""Speech recognition: Whisper, where there is speech, transcripts with times, subtitles, live captions."""
