"""What a request may be at most, and why. Everything is checked before the work that it bounds."""

# Bytes. Two files of the largest size fit, less what no picture needs: a 4,194,304-pixel RGBA PNG is 16 MiB at worst.
MAX_BODY_BYTES = 48 << 20
MAX_FILE_BYTES = 20 << 20
# The longest prompt, 32,000 characters of four bytes, twice over.
MAX_TEXT_BYTES = 256 << 10
# Twice as many as there are fields, and some; a form with more is an attack on the parser.
MAX_NUM_PARTS = 64
# A file name of 4 KB still passes; it is never used.
MAX_PART_HEADER_BYTES = 8 << 10
# uvicorn's and Ray's own bounds lie above, and differ: 32 KiB is four times what any client sends.
MAX_HEADER_BYTES = 32 << 10
# Bodies held in memory at once by one process: 32 of 48 MiB are 1.5 GiB, the worst case to plan memory for.
MAX_BODIES_AT_ONCE = 32

# Seconds. A client that says nothing for so long in the middle of its body has gone, or means harm.
BODY_SILENCE_S = 15.0
# Against one byte every 14 seconds; 48 MiB in ten minutes is 80 KiB/s.
BODY_TOTAL_S = 600.0
# Below one second no picture is done, and a caller who sends 0.001 meant milliseconds.
MIN_TIMEOUT_S = 1.0
# A day: above it, somebody sends milliseconds or a date. The endpoint's own `max_timeout_s` is less.
MAX_TIMEOUT_S = 86_400.0
# Longest wait of GET /v1/jobs/{id}?wait=: proxies between give up on silent connections after 60 s.
MAX_WAIT_S = 60

# Pixels. Below 64 a latent is smaller than a UNet's lowest level; above 4096 no model here is of use. The product
# bounds memory: 4,194,304 pixels are 12 MiB of RGB.
MIN_SIDE_PX = 64
MAX_SIDE_PX = 4096
MAX_PIXELS = 4_194_304

# Characters. A prompt is read to at most 77 tokens, so the bound is OpenAI's own, for those who copy its examples.
MAX_PROMPT_LENGTH = 32_000
MAX_USER_LENGTH = 512
MAX_REQUEST_ID_LENGTH = 128
MAX_IDEMPOTENCY_KEY_LENGTH = 255
# A key of ours has 46; longer ones are not hashed.
MAX_KEY_LENGTH = 512

# Pictures of one request; more are more requests, which the queue can share out.
MAX_NUM_IMAGES = 10

# What GET /v1/capabilities tells, for clients to check before they upload.
PUBLISHED: dict[str, float] = {
    "max_body_bytes": MAX_BODY_BYTES,
    "max_file_bytes": MAX_FILE_BYTES,
    "max_text_bytes": MAX_TEXT_BYTES,
    "max_num_parts": MAX_NUM_PARTS,
    "max_part_header_bytes": MAX_PART_HEADER_BYTES,
    "max_header_bytes": MAX_HEADER_BYTES,
    "max_bodies_at_once": MAX_BODIES_AT_ONCE,
    "body_silence_s": BODY_SILENCE_S,
    "body_total_s": BODY_TOTAL_S,
    "min_timeout_s": MIN_TIMEOUT_S,
    "max_timeout_s": MAX_TIMEOUT_S,
    "max_wait_s": MAX_WAIT_S,
    "min_side_px": MIN_SIDE_PX,
    "max_side_px": MAX_SIDE_PX,
    "max_pixels": MAX_PIXELS,
    "max_prompt_length": MAX_PROMPT_LENGTH,
    "max_user_length": MAX_USER_LENGTH,
    "max_request_id_length": MAX_REQUEST_ID_LENGTH,
    "max_idempotency_key_length": MAX_IDEMPOTENCY_KEY_LENGTH,
    "max_key_length": MAX_KEY_LENGTH,
    "max_num_images": MAX_NUM_IMAGES,
}
