package addr
