"""A GPU to pretend with: tensors compute on the CPU, say that they are on 'cuda', and
meet a tensor of the CPU as they would there

torch's FakeTensorMode has no values, and so cannot run what looks at them: a text is
trimmed to its longest row, a mask is counted, a probe stops when it has converged."""
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device('cuda', 0)
# What takes tensors of both on a real GPU: copies, and indices from the CPU
BOTH = {torch.Tensor.copy_, torch.Tensor.to, torch.Tensor.__getitem__,
        torch.Tensor.__setitem__, torch.Tensor.type_as,
        torch._has_compatible_shallow_copy_type}
CPU_ONLY = {torch.Tensor.numpy, torch.Tensor.__array__, torch.from_numpy}


def on_gpu(device) -> bool:
    return device is not None and torch.device(device).type == 'cuda'


def call(func, args, kwargs):
    "Call a function of torch as if there were a GPU"
    args, kwargs = list(args), dict(kwargs or {})
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, Pretend)]
    theirs = [t for t in tensors if not isinstance(t, Pretend) and t.ndim]
    target = bool(ours)
    first_alone = func in BOTH and (not tensors or tensors[0] is not args[0]
                                    or isinstance(args[0], Pretend))
    allowed = first_alone or func in BOTH - {torch.Tensor.__getitem__}
    getter = getattr(func, '__name__', '') in ('__get__', '__set__')
    if ours and theirs and not allowed and not getter:
        raise RuntimeError(f'Expected all tensors to be on the same device: {func} of '
                           f'{len(ours)} on cuda, {len(theirs)} on cpu')
    if ours and func in CPU_ONLY:
        raise TypeError("can't convert cuda tensor to numpy: use Tensor.cpu() first")
    if func is torch.Tensor.cpu:
        target = False
    if func is torch.Tensor.cuda:
        return call(torch.Tensor.to, (args[0], CUDA), {})
    if func in (torch.Tensor.to, torch.Tensor.type_as) and args[1:]:
        like = args[1]
        if isinstance(like, torch.Tensor):
            target = isinstance(like, Pretend)
        elif isinstance(like, torch.device | str):
            target, args[1] = on_gpu(like), torch.device('cpu')
    if kwargs.get('device') is not None and func is not torch._C._nn._parse_to:
        target, kwargs['device'] = on_gpu(kwargs['device']), torch.device('cpu')
    with torch._C.DisableTorchFunctionSubclass():
        out = func(*args, **kwargs)
        kind = Pretend if target else torch.Tensor

        def seen_from_outside(t):
            same = isinstance(t, Pretend) == target
            return t if same else torch._C.TensorBase.as_subclass(t, kind)
        return tree_map_only(torch.Tensor, seen_from_outside, out)


class Pretend(torch.Tensor):
    "A tensor that says it is on a GPU"
    device, is_cuda, is_cpu = CUDA, True, False

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs)

    def as_subclass(self, cls):  # to take fastai's types away: there is none
        return self

    def __deepcopy__(self, memo):
        copied = memo[id(self)] = self.detach().clone().requires_grad_(
            self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        return copied


class PretendGPU(TorchFunctionMode):
    "While it is on, `.to('cuda')` and `device='cuda'` work without one"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs)

    def __enter__(self):
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *args):
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        return super().__exit__(*args)
